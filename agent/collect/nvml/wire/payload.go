package wire

import (
	"encoding/binary"
	"math"
)

// appendText adds a text of at most maxFrame/4 bytes; what is longer is cut.
func appendText(b []byte, text string) []byte {
	text = text[:min(len(text), maxFrame/4)]
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

// reader takes a payload apart. After a mistake it gives zeros and is bad.
type reader struct {
	rest []byte
	bad  bool
}

// take cuts n bytes off; nil when there are fewer.
func (r *reader) take(n uint64) []byte {
	if r.bad || n > uint64(len(r.rest)) {
		r.bad = true
		return nil
	}
	taken := r.rest[:n]
	r.rest = r.rest[n:]
	return taken
}

func (r *reader) uvarint() uint64 {
	value, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.take(uint64(n))
	return value
}

func (r *reader) varint() int64 {
	value, n := binary.Varint(r.rest)
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.take(uint64(n))
	return value
}

// count reads the length of a list, each item of which takes a byte at least:
// no frame makes its reader allocate more than a few times its size.
func (r *reader) count() int {
	n := r.uvarint()
	if r.bad || n > uint64(len(r.rest)) {
		r.bad = true
		return 0
	}
	return int(n)
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) float() float64 {
	if b := r.take(8); b != nil {
		return math.Float64frombits(binary.LittleEndian.Uint64(b))
	}
	return 0
}

func (r *reader) text() string { return string(r.take(r.uvarint())) }
