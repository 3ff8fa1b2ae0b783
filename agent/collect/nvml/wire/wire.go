// Package wire is what the agent and its NVML helper say to each other over a
// pair of pipes: frames of a length, a type and a payload.
//
// The agent sends a [Request] a collection. The helper answers with [Series]
// for what it has not measured before, [Values] that name series by number, and
// a [Done]; in between come [XID] and [Slow] whenever there are any. Both ends
// are the same program, so that there is no version and entries of the
// dictionary go by their index.
package wire

import (
	"bufio"
	"encoding/binary"
	"io"
	"math"

	"github.com/vigil-ml/vigil/internal/fault"
)

// maxFrame bounds a frame; a helper that says more is broken.
const maxFrame = 1 << 20

// Library stands where a GPU's index would, for what concerns no GPU alone.
const Library = -1

// Request asks for one collection.
type Request struct {
	Seq uint64
	// Skip names GPUs that are left out.
	Skip []int
	// Last names GPUs that are measured after all others, since they did not
	// answer before.
	Last []int
	// PIDs are the registered trainers' processes.
	PIDs []int64
}

// Series gives a series its number, before its first value.
type Series struct {
	Ref    uint32
	Def    int // index in metric.GPUs
	GPU    int // or Library
	Labels []string
}

// Values is what was read of one GPU. A series keeps its last value until it is
// among those gone.
type Values struct {
	GPU    int
	Refs   []uint32
	Values []float64 // as many as Refs
	Gone   []uint32
}

// XID is an XID error that the event set told.
type XID struct {
	GPU    int
	Number int32
	PCI    string // as NVML writes it
}

// Slow says which call has not returned yet.
type Slow struct {
	GPU  int // or Library
	Call string
}

// Outcome is how a collection went.
type Outcome byte

// The outcomes.
const (
	OK          Outcome = iota + 1 // every GPU was measured
	Unsupported                    // there is no driver or no GPU
	Failed                         // something failed; Err says what
)

// Done ends the answer to a request.
type Done struct {
	Seq     uint64
	Outcome Outcome
	GPUs    int // how many there are
	Err     string
}

// Message is one of the types above.
type Message interface {
	tag() byte
	append(buf []byte) []byte
	read(r *reader)
}

func (*Request) tag() byte { return 1 }
func (*Series) tag() byte  { return 2 }
func (*Values) tag() byte  { return 3 }
func (*XID) tag() byte     { return 4 }
func (*Slow) tag() byte    { return 5 }
func (*Done) tag() byte    { return 6 }

func empty(tag byte) Message {
	switch tag {
	case 1:
		return &Request{}
	case 2:
		return &Series{}
	case 3:
		return &Values{}
	case 4:
		return &XID{}
	case 5:
		return &Slow{}
	case 6:
		return &Done{}
	default:
		return nil
	}
}

// Append adds a message's frame to a buffer.
func Append(buf []byte, m Message) []byte {
	start := len(buf)
	buf = append(buf, 0, 0, 0, 0, m.tag())
	buf = m.append(buf)
	binary.LittleEndian.PutUint32(buf[start:], uint32(len(buf)-start-4))
	return buf
}

// Reader reads frames; it is for one goroutine.
type Reader struct {
	r   *bufio.Reader
	buf []byte
}

// NewReader makes a reader.
func NewReader(r io.Reader) *Reader { return &Reader{r: bufio.NewReader(r)} }

// Next reads one message. It fails with [fault.Corrupt] when what comes is no
// frame, and with [io.EOF] at the end.
func (r *Reader) Next() (Message, error) {
	var head [4]byte
	if _, err := io.ReadFull(r.r, head[:]); err != nil {
		return nil, err
	}
	size := binary.LittleEndian.Uint32(head[:])
	if size == 0 || size > maxFrame {
		return nil, fault.New(fault.Corrupt, "read frame: %d bytes are not between 1 and %d", size, maxFrame)
	}
	if cap(r.buf) < int(size) {
		r.buf = make([]byte, size)
	}
	r.buf = r.buf[:size]
	if _, err := io.ReadFull(r.r, r.buf); err != nil {
		return nil, fault.New(fault.Corrupt, "read frame: %w", err)
	}
	m := empty(r.buf[0])
	if m == nil {
		return nil, fault.New(fault.Corrupt, "read frame: type %d is not known", r.buf[0])
	}
	in := reader{rest: r.buf[1:]}
	m.read(&in)
	if in.bad || len(in.rest) > 0 {
		return nil, fault.New(fault.Corrupt, "read frame of type %d: the payload is damaged", r.buf[0])
	}
	return m, nil
}

func (m *Request) append(b []byte) []byte {
	b = binary.AppendUvarint(b, m.Seq)
	for _, list := range [][]int{m.Skip, m.Last} {
		b = binary.AppendUvarint(b, uint64(len(list)))
		for _, gpu := range list {
			b = binary.AppendVarint(b, int64(gpu))
		}
	}
	b = binary.AppendUvarint(b, uint64(len(m.PIDs)))
	for _, pid := range m.PIDs {
		b = binary.AppendVarint(b, pid)
	}
	return b
}

func (m *Request) read(r *reader) {
	m.Seq = r.uvarint()
	for _, list := range []*[]int{&m.Skip, &m.Last} {
		for range r.count() {
			*list = append(*list, int(r.varint()))
		}
	}
	for range r.count() {
		m.PIDs = append(m.PIDs, r.varint())
	}
}

func (m *Series) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(m.Ref))
	b = binary.AppendUvarint(b, uint64(m.Def))
	b = binary.AppendVarint(b, int64(m.GPU))
	b = binary.AppendUvarint(b, uint64(len(m.Labels)))
	for _, label := range m.Labels {
		b = appendText(b, label)
	}
	return b
}

func (m *Series) read(r *reader) {
	m.Ref, m.Def, m.GPU = uint32(r.uvarint()), int(r.uvarint()), int(r.varint())
	for range r.count() {
		m.Labels = append(m.Labels, r.text())
	}
}

func (m *Values) append(b []byte) []byte {
	b = binary.AppendVarint(b, int64(m.GPU))
	b = binary.AppendUvarint(b, uint64(len(m.Refs)))
	for i, ref := range m.Refs {
		b = binary.AppendUvarint(b, uint64(ref))
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(m.Values[i]))
	}
	b = binary.AppendUvarint(b, uint64(len(m.Gone)))
	for _, ref := range m.Gone {
		b = binary.AppendUvarint(b, uint64(ref))
	}
	return b
}

func (m *Values) read(r *reader) {
	m.GPU = int(r.varint())
	n := r.count()
	if n > 0 {
		m.Refs, m.Values = make([]uint32, 0, n), make([]float64, 0, n)
	}
	for range n {
		m.Refs = append(m.Refs, uint32(r.uvarint()))
		m.Values = append(m.Values, r.float())
	}
	for range r.count() {
		m.Gone = append(m.Gone, uint32(r.uvarint()))
	}
}

func (m *XID) append(b []byte) []byte {
	b = binary.AppendVarint(b, int64(m.GPU))
	b = binary.AppendVarint(b, int64(m.Number))
	return appendText(b, m.PCI)
}

func (m *XID) read(r *reader) {
	m.GPU, m.Number, m.PCI = int(r.varint()), int32(r.varint()), r.text()
}

func (m *Slow) append(b []byte) []byte {
	return appendText(binary.AppendVarint(b, int64(m.GPU)), m.Call)
}

func (m *Slow) read(r *reader) { m.GPU, m.Call = int(r.varint()), r.text() }

func (m *Done) append(b []byte) []byte {
	b = append(binary.AppendUvarint(b, m.Seq), byte(m.Outcome))
	return appendText(binary.AppendUvarint(b, uint64(m.GPUs)), m.Err)
}

func (m *Done) read(r *reader) {
	m.Seq, m.Outcome, m.GPUs, m.Err = r.uvarint(), Outcome(r.byte()), int(r.uvarint()), r.text()
}
