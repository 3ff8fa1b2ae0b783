package logline

import "bytes"

// maxLineBytes bounds a line; what is longer is no report.
const maxLineBytes = 16 << 10

// Writer takes a program's output and tells what its lines say. A line ends
// with a newline or a carriage return, as progress bars have it. It is for one
// goroutine.
type Writer struct {
	parser Parser
	tell   func(Found)
	line   []byte
	long   bool // the line is too long and is left out to its end
}

// NewWriter makes a writer that calls tell, on the goroutine that writes.
func NewWriter(tell func(Found)) *Writer { return &Writer{tell: tell} }

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
	w.say(w.parser.Rest())
	return nil
}

func (w *Writer) say(all []Found) {
	for _, found := range all {
		w.tell(found)
	}
}

func (w *Writer) add(part []byte) {
	if w.long = w.long || len(w.line)+len(part) > maxLineBytes; w.long {
		w.line = w.line[:0]
		return
	}
	w.line = append(w.line, part...)
}

func (w *Writer) end() {
	if len(w.line) > 0 && !w.long {
		w.say(w.parser.Line(string(w.line)))
	}
	w.line, w.long = w.line[:0], false
}
