package logline

import (
	"bytes"
	"sync"
)

// maxLineBytes bounds a line; what is longer is no report.
const maxLineBytes = 16 << 10

// Reader tells what a program's lines say, of all its outputs: records on one
// and bars on another belong together. It is safe for concurrent use.
type Reader struct {
	mu     sync.Mutex
	parser Parser
	tell   func(Found)
}

// NewReader makes a reader that calls tell, one call at a time, on the goroutine
// that writes.
func NewReader(tell func(Found)) *Reader { return &Reader{tell: tell} }

// Stream takes one of the outputs.
func (r *Reader) Stream() *Writer { return &Writer{reader: r} }

// Close tells what waited for a line that did not come.
func (r *Reader) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.say(r.parser.Rest())
}

func (r *Reader) line(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.say(r.parser.Line(line))
}

func (r *Reader) say(all []Found) {
	for _, found := range all {
		r.tell(found)
	}
}

// Writer takes an output. A line ends with a newline or a carriage return, as
// progress bars have it. It is for one goroutine.
type Writer struct {
	reader *Reader
	buffer []byte
	long   bool // the line is too long and is left out to its end
}

// Write takes output; it never fails.
func (w *Writer) Write(output []byte) (int, error) {
	rest := output
	for len(rest) > 0 {
		end := bytes.IndexAny(rest, "\r\n")
		if end < 0 {
			w.add(rest)
			break
		}
		w.add(rest[:end])
		w.end()
		rest = rest[end+1:]
	}
	return len(output), nil
}

// Close reads a last line without an end; the writer can be used again.
func (w *Writer) Close() error {
	w.end()
	return nil
}

func (w *Writer) add(part []byte) {
	if w.long = w.long || len(w.buffer)+len(part) > maxLineBytes; w.long {
		w.buffer = w.buffer[:0]
		return
	}
	w.buffer = append(w.buffer, part...)
}

func (w *Writer) end() {
	if len(w.buffer) > 0 && !w.long {
		w.reader.line(string(w.buffer))
	}
	w.buffer, w.long = w.buffer[:0], false
}
