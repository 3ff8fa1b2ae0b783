package columns

import (
	"encoding/binary"
	"math"
	"slices"
)

// Decoder reads blocks and keeps its memory from one to the next. The zero
// Decoder is ready; it is for one goroutine.
type Decoder struct {
	rest  []byte
	times []int64
	refs  []uint32
	total int
}

// Append appends the points of a block to dst: series by series, and those of
// one series in the order in which the encoder had them. A block that breaks
// the format gives an error of kind [fault.Corrupt] and whatever was read of
// it; no block makes it take more than [MaxPoints] points.
func (d *Decoder) Append(dst []Point, block []byte) ([]Point, error) {
	if len(block) == 0 || block[0] != formatPlain {
		return dst, corrupt("it is of a format that is not known")
	}
	d.rest, d.total = block[1:], 0
	groups, ok := d.uvarint(MaxPoints)
	if !ok || groups == 0 {
		return dst, corrupt("it does not say how many groups there are")
	}
	base := int64(0)
	for range groups {
		if err := d.readGroup(base); err != nil {
			return dst, err
		}
		base = d.times[0]
		dst = slices.Grow(dst, len(d.refs)*len(d.times))
		var err error
		for _, ref := range d.refs {
			if dst, err = d.appendColumn(dst, ref); err != nil {
				return dst, err
			}
		}
	}
	if len(d.rest) > 0 {
		return dst, corrupt("bytes are left behind the last group")
	}
	return dst, nil
}

// uvarint reads a number that is at most a limit.
func (d *Decoder) uvarint(limit uint64) (int, bool) {
	u, n := binary.Uvarint(d.rest)
	if n <= 0 || u > limit {
		return 0, false
	}
	d.rest = d.rest[n:]
	return int(u), true
}

func (d *Decoder) varint() (int64, bool) {
	x, n := binary.Varint(d.rest)
	if n <= 0 {
		return 0, false
	}
	d.rest = d.rest[n:]
	return x, true
}

// readGroup reads times and series numbers.
func (d *Decoder) readGroup(base int64) error {
	n, ok := d.uvarint(MaxPoints)
	if !ok || n == 0 {
		return corrupt("a group has no times")
	}
	d.times = d.times[:0]
	step := int64(0)
	for i := range n {
		x, ok := d.varint()
		if !ok {
			return corrupt("a time is cut off")
		}
		switch i {
		case 0:
			base += x
		default:
			step += x
			base += step
		}
		d.times = append(d.times, base)
	}
	return d.readRefs()
}

func (d *Decoder) readRefs() error {
	runs, ok := d.uvarint(MaxPoints)
	if !ok || runs == 0 {
		return corrupt("a group has no series")
	}
	d.refs = d.refs[:0]
	last := uint64(0)
	for range runs {
		gap, ok := d.uvarint(math.MaxUint32)
		more, ok2 := d.uvarint(MaxPoints)
		first := last + uint64(gap)
		if !ok || !ok2 || gap == 0 || first+uint64(more) > math.MaxUint32 {
			return corrupt("a series number is out of range")
		}
		last = first + uint64(more)
		if d.total += (more + 1) * len(d.times); d.total > MaxPoints {
			return corrupt("it has too many samples")
		}
		for ref := first; ref <= last; ref++ {
			d.refs = append(d.refs, uint32(ref))
		}
	}
	return nil
}

// appendColumn reads one series' values. The caller made room.
func (d *Decoder) appendColumn(dst []Point, ref uint32) ([]Point, error) {
	if len(d.rest) == 0 {
		return dst, corrupt("a column is missing")
	}
	header := d.rest[0]
	kind, scale := header&3, int(header>>2)
	if scale > maxScale || (kind == kindPattern && scale != 0) {
		return dst, corrupt("a column's header is not known")
	}
	d.rest = d.rest[1:]
	power := powersOfTen()[scale]
	if kind == kindConstant {
		x, ok := d.varint()
		if !ok {
			return dst, corrupt("a value is cut off")
		}
		v := float64(x) / power
		for _, at := range d.times {
			dst = append(dst, Point{ref, at, v})
		}
		return dst, nil
	}
	if len(d.rest) < 2 || d.rest[0] > 64 || d.rest[1] > 63 {
		return dst, corrupt("a column's width is out of range")
	}
	width, shift := int(d.rest[0]), int(d.rest[1])
	d.rest = d.rest[2:]
	if kind == kindPattern {
		return d.appendPatterns(dst, ref, width, shift)
	}
	first, ok := d.varint()
	size := packedBytes(len(d.times)-1, width)
	if !ok || len(d.rest) < size {
		return dst, corrupt("a column is cut off")
	}
	packed := d.rest[:size]
	d.rest = d.rest[size:]
	x, step := first, int64(0)
	for i, at := range d.times {
		if i > 0 {
			delta := unzigzag(bitsAt(packed, (i-1)*width, width))
			if kind == kindDelta2 {
				step += delta
				delta = step
			}
			x += delta
		}
		dst = append(dst, Point{ref, at, float64(x<<shift) / power})
	}
	return dst, nil
}

func (d *Decoder) appendPatterns(dst []Point, ref uint32, width, shift int) ([]Point, error) {
	size := packedBytes(len(d.times)-1, width)
	if len(d.rest) < 8+size {
		return dst, corrupt("a column is cut off")
	}
	pattern := binary.LittleEndian.Uint64(d.rest)
	packed := d.rest[8 : 8+size]
	d.rest = d.rest[8+size:]
	for i, at := range d.times {
		if i > 0 {
			pattern ^= bitsAt(packed, (i-1)*width, width) << shift
		}
		dst = append(dst, Point{ref, at, math.Float64frombits(pattern)})
	}
	return dst, nil
}
