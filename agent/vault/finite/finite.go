// Package finite looks for values that are not finite in the tensors of a file
// while its bytes go by, in one pass and with bounded memory.
//
// It knows safetensors, NumPy's .npy, the reference trainer's own and what
// torch.save writes. Where the values lie is read from the beginning of the file or,
// of PyTorch's, from the directory at its end; nothing of the file is run. A file of any other format is not looked at, and the result
// says so: that nobody looked is not that all is well.
package finite

import (
	"cmp"
	"io"
	"slices"
)

// maxHeaderBytes bounds what is kept of a file to learn its format.
const maxHeaderBytes = 16 << 20

// Result is what was found in a file.
type Result struct {
	// Format is the format that it was read as.
	Format string
	// Values is the number of values that were looked at.
	Values int64
	// NaN and Inf are how many of them are not a number, and infinite.
	NaN, Inf int64
	// First names the first tensor with such a value; empty when there is none.
	First string
}

// tensor is a part of a file that holds values.
type tensor struct {
	name       string
	start, end int64 // offsets in the file
	kind       kind
}

// Scanner takes a file's bytes in order. The zero value is not usable; make one
// with [New]. It is not safe for concurrent use.
type Scanner struct {
	sizeBytes int64
	file      io.ReaderAt
	head      []byte // until the format is known
	known     bool   // the format was looked for
	result    Result
	tensors   []tensor // by start; those that are not over
	at        int64    // offset of the next byte
	carry     [8]byte  // of a word that is not whole
	carried   int
}

// New makes a scanner for a file of a size. Where file is not nil, formats are
// known too whose layout is not at the beginning; it is the same file.
func New(file io.ReaderAt, sizeBytes int64) *Scanner {
	return &Scanner{file: file, sizeBytes: sizeBytes}
}

// Result gives what was found in what was written so far, and false for a file
// that was not looked at.
func (s *Scanner) Result() (Result, bool) { return s.result, s.result.Format != "" }

// Write takes the next bytes. It never fails.
func (s *Scanner) Write(p []byte) (int, error) {
	n := len(p)
	if s.known {
		s.scan(p)
		return n, nil
	}
	s.head = append(s.head, p...)
	layout, more := s.recognize()
	if more && int64(len(s.head)) < min(s.sizeBytes, maxHeaderBytes) {
		return n, nil
	}
	head := s.head
	s.known, s.head = true, nil
	if !more && layout.format != "" {
		s.result.Format = layout.format
		s.tensors = slices.DeleteFunc(layout.tensors, func(t tensor) bool { return t.kind.bytes == 0 || t.end <= t.start })
		slices.SortFunc(s.tensors, func(a, b tensor) int { return cmp.Compare(a.start, b.start) })
		s.scan(head)
	}
	return n, nil
}

// recognize reads what is there of the file's beginning, and where that says so its
// directory.
func (s *Scanner) recognize() (l layout, more bool) {
	has, more := begins(s.head, zipMagic)
	if !has && !more {
		return recognize(s.head, s.sizeBytes)
	}
	if has && s.file != nil {
		// What cannot be read is of a format that is not known.
		l, _ = torchFile(s.file, s.sizeBytes)
	}
	return l, more
}

// scan takes bytes of a file whose format is known.
func (s *Scanner) scan(p []byte) {
	for len(p) > 0 {
		if len(s.tensors) == 0 {
			s.at += int64(len(p))
			return
		}
		t := s.tensors[0]
		if gap := t.start - s.at; gap > 0 {
			skip := min(gap, int64(len(p)))
			p, s.at = p[skip:], s.at+skip
			continue
		}
		part := p[:min(t.end-s.at, int64(len(p)))]
		s.count(t, part)
		p, s.at = p[len(part):], s.at+int64(len(part))
		if s.at >= t.end {
			s.finish(t)
			s.tensors = s.tensors[1:]
		}
	}
}

// count looks at bytes of a tensor, in whole words.
func (s *Scanner) count(t tensor, p []byte) {
	if s.carried > 0 {
		n := copy(s.carry[s.carried:], p)
		s.carried += n
		p = p[n:]
		if s.carried < len(s.carry) {
			return
		}
		s.add(t, s.carry[:])
		s.carried = 0
	}
	whole := len(p) &^ 7
	s.add(t, p[:whole])
	s.carried = copy(s.carry[:], p[whole:])
}

// finish looks at what is left of a tensor.
func (s *Scanner) finish(t tensor) {
	s.add(t, s.carry[:s.carried-s.carried%t.kind.bytes])
	s.carried = 0
}

func (s *Scanner) add(t tensor, p []byte) {
	s.result.Values += int64(len(p) / t.kind.bytes)
	if t.kind.clean(p) {
		return
	}
	nan, inf := t.kind.count(p)
	if s.result.First == "" && nan+inf > 0 {
		s.result.First = t.name
	}
	s.result.NaN += nan
	s.result.Inf += inf
}
