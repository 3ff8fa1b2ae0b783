package trail

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/vigil-ml/vigil/internal/fault"
)

// MaxLineBytes bounds a line of a copy.
const MaxLineBytes = 1 << 20

// Header is the first line of a copy.
type Header struct {
	Version int    `json:"vigil_audit"` // 1
	Key     string `json:"key"`         // the log's public key, which names it
	First   uint64 `json:"first"`       // place of the first record that follows
}

// Entry is a line of a copy: a record, or the hash of one that was let go of
// when its time had come, with the signature of the tree that ends with it.
type Entry struct {
	Seq       uint64
	Record    []byte // canonical; nil when it was let go of
	Leaf      tlog.Hash
	Signature string
}

// line is an entry as JSON. Record is kept as the bytes that it is.
type line struct {
	Record    json.RawMessage `json:"record,omitempty"`
	Seq       *uint64         `json:"seq,omitempty"`
	Leaf      string          `json:"leaf,omitempty"`
	Signature string          `json:"signature"`
}

// AppendHeader writes a copy's first line.
func AppendHeader(dst []byte, h Header) ([]byte, error) {
	text, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("write header of audit copy: %w", err)
	}
	return append(append(dst, text...), '\n'), nil
}

// AppendEntry writes one line.
func AppendEntry(dst []byte, e Entry) []byte {
	if e.Record != nil {
		dst = append(dst, `{"record":`...)
		dst = append(dst, e.Record...)
	} else {
		dst = fmt.Appendf(dst, `{"seq":%d,"leaf":"%s"`, e.Seq, e.Leaf)
	}
	return fmt.Appendf(dst, `,"signature":"%s"}`+"\n", e.Signature)
}

// Reader reads a copy. It is for one goroutine.
type Reader struct {
	Header Header
	in     *bufio.Reader
	line   int
}

// NewReader reads a copy's header.
func NewReader(in io.Reader) (*Reader, error) {
	r := &Reader{in: bufio.NewReaderSize(in, 64<<10)}
	text, err := r.next()
	if errors.Is(err, io.EOF) {
		return nil, fault.New(fault.Corrupt, "the copy is empty: it has no header")
	}
	if err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r.Header); err != nil || r.Header.Version != 1 || r.Header.Key == "" {
		return nil, fault.New(fault.Corrupt, "line 1 is no header of an audit copy of version 1")
	}
	return r, nil
}

// Line is the number of the line that was read last, from 1.
func (r *Reader) Line() int { return r.line }

func (r *Reader) next() ([]byte, error) {
	var text []byte
	for {
		part, err := r.in.ReadSlice('\n')
		text = append(text, part...)
		if len(text) > MaxLineBytes {
			return nil, fault.New(fault.Corrupt, "line %d is longer than %d bytes", r.line+1, MaxLineBytes)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && len(text) > 0:
			return nil, fault.New(fault.Corrupt, "line %d is cut off", r.line+1)
		case err != nil:
			return nil, err
		}
		r.line++
		return text[:len(text)-1], nil
	}
}

// Next reads an entry; io.EOF at the end. What is no entry gives
// [fault.Corrupt].
func (r *Reader) Next() (Entry, error) {
	text, err := r.next()
	if err != nil {
		return Entry{}, err
	}
	var l line
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&l); err != nil {
		return Entry{}, fault.New(fault.Corrupt, "line %d is no audit record: %w", r.line, err)
	}
	e := Entry{Record: l.Record, Signature: l.Signature}
	switch {
	case l.Record != nil:
		e.Leaf = tlog.RecordHash(l.Record)
		record, err := Parse(l.Record)
		if err != nil {
			return Entry{}, err
		}
		e.Seq = record.Seq
	case l.Seq != nil:
		e.Seq = *l.Seq
		if e.Leaf, err = tlog.ParseHash(l.Leaf); err != nil {
			return Entry{}, fault.New(fault.Corrupt, "line %d: leaf: %w", r.line, err)
		}
	default:
		return Entry{}, fault.New(fault.Corrupt, "line %d has neither a record nor a leaf", r.line)
	}
	// There is one way to write an entry, so that nothing can hide in a copy.
	if again := AppendEntry(nil, e); !bytes.Equal(again[:len(again)-1], text) {
		return Entry{}, fault.New(fault.Corrupt, "line %d is not written as entries are", r.line)
	}
	return e, nil
}
