package columns

import (
	"encoding/binary"
	"math"
	"math/bits"
	"slices"
)

// Encoder writes blocks and keeps its memory from one to the next. The zero
// Encoder is ready; it is for one goroutine.
type Encoder struct {
	order  []uint64 // ref and index of each point, sorted
	groups []group
	ints   []int64
	words  [2][]uint64
}

// span is the points of one series: order[from:to].
type span struct{ from, to int }

// group is the series that have the same times.
type group struct{ members []span }

// Append appends one block with all points, at most [MaxPoints] and at least
// one, whose order does not matter but for those of one series. More points,
// none, or a series number 0 is a bug of the caller and panics.
func (e *Encoder) Append(dst []byte, points []Point) []byte {
	if len(points) == 0 || len(points) > MaxPoints {
		panic("columns: a block has 1 to MaxPoints points")
	}
	e.sort(points)
	e.gather(points)
	dst = append(dst, formatPlain)
	dst = binary.AppendUvarint(dst, uint64(len(e.groups)))
	base := int64(0)
	for i := range e.groups {
		g := &e.groups[i]
		dst = e.appendTimes(dst, points, g.members[0], base)
		base = points[e.at(g.members[0].from)].TimeMS
		dst = e.appendRefs(dst, g.members)
		for _, s := range g.members {
			dst = e.appendColumn(dst, points, s)
		}
	}
	return dst
}

func (e *Encoder) at(i int) int      { return int(uint32(e.order[i])) }
func (e *Encoder) ref(s span) uint32 { return uint32(e.order[s.from] >> 32) }

// sort puts the points of each series together, in the order they came in.
func (e *Encoder) sort(points []Point) {
	e.order = slices.Grow(e.order[:0], len(points))
	for i, p := range points {
		if p.Ref == 0 {
			panic("columns: series numbers begin at 1")
		}
		e.order = append(e.order, uint64(p.Ref)<<32|uint64(i))
	}
	slices.Sort(e.order)
}

// gather finds the groups.
func (e *Encoder) gather(points []Point) {
	e.groups = e.groups[:0]
	for from := 0; from < len(e.order); {
		to := from + 1
		for to < len(e.order) && e.order[to]>>32 == e.order[from]>>32 {
			to++
		}
		e.join(points, span{from, to})
		from = to
	}
}

// join puts a series into its group.
func (e *Encoder) join(points []Point, s span) {
	for i := range e.groups {
		if g := &e.groups[i]; e.sameTimes(points, g.members[0], s) {
			g.members = append(g.members, s)
			return
		}
	}
	if n := len(e.groups); n < cap(e.groups) {
		e.groups = e.groups[:n+1]
		e.groups[n].members = append(e.groups[n].members[:0], s)
		return
	}
	e.groups = append(e.groups, group{[]span{s}})
}

func (e *Encoder) sameTimes(points []Point, a, b span) bool {
	if a.to-a.from != b.to-b.from {
		return false
	}
	for i := range a.to - a.from {
		if points[e.at(a.from+i)].TimeMS != points[e.at(b.from+i)].TimeMS {
			return false
		}
	}
	return true
}

// appendTimes writes a group's times.
func (e *Encoder) appendTimes(dst []byte, points []Point, s span, base int64) []byte {
	dst = binary.AppendUvarint(dst, uint64(s.to-s.from))
	last := points[e.at(s.from)].TimeMS
	dst = binary.AppendVarint(dst, last-base)
	step := int64(0)
	for i := s.from + 1; i < s.to; i++ {
		at := points[e.at(i)].TimeMS
		dst = binary.AppendVarint(dst, at-last-step)
		last, step = at, at-last
	}
	return dst
}

// appendRefs writes a group's series as runs of numbers that follow each other.
func (e *Encoder) appendRefs(dst []byte, members []span) []byte {
	runs := 1
	for i := range members[1:] {
		if e.ref(members[i+1]) != e.ref(members[i])+1 {
			runs++
		}
	}
	dst = binary.AppendUvarint(dst, uint64(runs))
	last := uint32(0) // number of the run before
	for from := 0; from < len(members); {
		first := e.ref(members[from])
		to := from + 1
		for to < len(members) && e.ref(members[to]) == first+uint32(to-from) {
			to++
		}
		dst = binary.AppendUvarint(dst, uint64(first-last))
		dst = binary.AppendUvarint(dst, uint64(to-from-1))
		last = first + uint32(to-from-1)
		from = to
	}
	return dst
}

// appendColumn writes a series' values in the form that takes least.
func (e *Encoder) appendColumn(dst []byte, points []Point, s span) []byte {
	scale, ok := e.integers(points, s)
	if !ok {
		return e.appendPatterns(dst, points, s)
	}
	var union uint64
	for _, x := range e.ints {
		union |= uint64(x)
	}
	shift := 0
	if union != 0 {
		shift = bits.TrailingZeros64(union)
	}
	first := e.ints[0] >> shift
	width, width2 := e.differences(shift)
	header := byte(scale) << 2
	if width == 0 {
		dst = append(dst, header|kindConstant)
		return binary.AppendVarint(dst, e.ints[0])
	}
	words, kind := e.words[0], byte(kindDelta)
	if width2 < width {
		words, kind, width = e.words[1], kindDelta2, width2
	}
	dst = append(dst, header|kind, byte(width), byte(shift))
	dst = binary.AppendVarint(dst, first)
	return appendBits(dst, words, width)
}

// integers fills ints with the values as integers of the smallest scale that
// holds them all.
func (e *Encoder) integers(points []Point, s span) (scale int, ok bool) {
	for scale, power := range powersOfTen() {
		e.ints = e.ints[:0]
		for i := s.from; i < s.to; i++ {
			x, exact := integer(points[e.at(i)].Value, power)
			if !exact {
				break
			}
			e.ints = append(e.ints, x)
		}
		if len(e.ints) == s.to-s.from {
			return scale, true
		}
	}
	return 0, false
}

// differences fills words with the differences of the integers and with the
// differences of those, and gives the bits that each takes.
func (e *Encoder) differences(shift int) (width, width2 int) {
	e.words[0], e.words[1] = e.words[0][:0], e.words[1][:0]
	var all, all2 uint64
	step := int64(0)
	for i, x := range e.ints[1:] {
		delta := x>>shift - e.ints[i]>>shift
		one, two := zigzag(delta), zigzag(delta-step)
		all, all2, step = all|one, all2|two, delta
		e.words[0], e.words[1] = append(e.words[0], one), append(e.words[1], two)
	}
	return bits.Len64(all), bits.Len64(all2)
}

// appendPatterns writes a column of bit patterns.
func (e *Encoder) appendPatterns(dst []byte, points []Point, s span) []byte {
	first := math.Float64bits(points[e.at(s.from)].Value)
	last, union := first, uint64(0)
	e.words[0] = e.words[0][:0]
	for i := s.from + 1; i < s.to; i++ {
		next := math.Float64bits(points[e.at(i)].Value)
		e.words[0] = append(e.words[0], next^last)
		union |= next ^ last
		last = next
	}
	shift := 0
	if union != 0 {
		shift = bits.TrailingZeros64(union)
	}
	for i := range e.words[0] {
		e.words[0][i] >>= shift
	}
	width := bits.Len64(union >> shift)
	dst = append(dst, kindPattern, byte(width), byte(shift))
	dst = binary.LittleEndian.AppendUint64(dst, first)
	return appendBits(dst, e.words[0], width)
}
