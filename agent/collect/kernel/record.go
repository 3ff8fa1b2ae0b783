package kernel

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/vigil-ml/vigil/agent/collect/sysfile"
)

// record is a line of the kernel log as /dev/kmsg gives it
// (Documentation/ABI/testing/dev-kmsg):
//
//	prefix,sequence,microseconds,flags[,...];text
//
// The lines behind it that begin with a blank are its properties, which say
// nothing that the text does not.
type record struct {
	sequence uint64 // from 0 at the start of the machine
	micros   uint64 // since the start
	text     string
}

// maxText bounds a text; the kernel's own bound is about a thousand bytes.
const maxText = 2048

// parse reads a line. It gives false for a line that is no record or none of
// the kernel's own: programs can write into the log, and nobody shall report
// an XID that way.
func parse(line []byte) (record, bool) {
	head, text, ok := bytes.Cut(line, []byte{';'})
	if !ok || len(head) == 0 || head[0] == ' ' {
		return record{}, false
	}
	prefix, rest, ok1 := bytes.Cut(head, []byte{','})
	sequence, rest, ok2 := bytes.Cut(rest, []byte{','})
	micros, _, ok3 := bytes.Cut(rest, []byte{','})
	if !ok1 || !ok2 || !ok3 {
		return record{}, false
	}
	level, okLevel := sysfile.Uint(prefix)
	n, okNumber := sysfile.Uint(sequence)
	at, okTime := sysfile.Uint(micros)
	if !okLevel || !okNumber || !okTime {
		return record{}, false
	}
	r := record{sequence: n, micros: at}
	if facility := level >> 3; facility == 0 {
		r.text = unescape(text[:min(len(text), maxText)])
	}
	return r, true
}

// unescape reads the \x1b of the log, and makes valid UTF-8 of what is not.
func unescape(text []byte) string {
	if bytes.IndexByte(text, '\\') < 0 {
		return strings.ToValidUTF8(string(text), "\ufffd")
	}
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+3 < len(text) && text[i+1] == 'x' {
			if n, err := strconv.ParseUint(string(text[i+2:i+4]), 16, 8); err == nil {
				out = append(out, byte(n))
				i += 3
				continue
			}
		}
		out = append(out, text[i])
	}
	return strings.ToValidUTF8(string(out), "\ufffd")
}

// cut shortens a text to at most size bytes of whole characters.
func cut(text string, size int) string {
	if len(text) <= size {
		return text
	}
	for size > 0 && !utf8.RuneStart(text[size]) {
		size--
	}
	return text[:size]
}
