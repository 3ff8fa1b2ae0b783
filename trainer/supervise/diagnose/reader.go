package diagnose

import (
	"regexp"
	"strings"
	"sync"
)

const (
	// maxLine bounds what of a line is looked at, in bytes.
	maxLine = 4096
	// maxPerSign bounds how often a sign is noted; the first ones count.
	maxPerSign = 2
	// maxMatches bounds them all.
	maxMatches = 32
	// tailBytes is how much of the output is kept for tracebacks.
	tailBytes = 64 << 10
)

// Match is a sign that was met.
type Match struct {
	Sign Sign
	Line int    // of the output, counted from 1
	Text string // the line, clipped
}

// Reader looks for signs in output as it comes, with bounded memory. Make one
// with NewReader. It is safe for concurrent use.
type Reader struct {
	mu      sync.Mutex
	signs   []compiled
	partial []byte // of a line that has not ended
	lines   int
	counts  map[string]int
	matches []Match
	tail    []byte
}

type compiled struct {
	Sign
	pattern *regexp.Regexp
}

// NewReader makes a reader that knows all signs.
func NewReader() *Reader {
	r := &Reader{counts: map[string]int{}}
	for _, s := range Signs() {
		c := compiled{Sign: s}
		if s.Pattern != "" {
			c.pattern = regexp.MustCompile(s.Pattern)
		}
		r.signs = append(r.signs, c)
	}
	return r
}

// Write takes output in; it never fails.
func (r *Reader) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tail = append(r.tail, p...)
	if over := len(r.tail) - 2*tailBytes; over > 0 {
		r.tail = append(r.tail[:0], r.tail[len(r.tail)-tailBytes:]...)
	}
	rest := p
	for len(rest) > 0 {
		// Progress bars end their lines with a carriage return.
		end := strings.IndexAny(string(rest), "\n\r")
		if end < 0 {
			r.hold(rest)
			break
		}
		r.hold(rest[:end])
		r.line()
		rest = rest[end+1:]
	}
	return len(p), nil
}

// hold keeps a part of a line, as far as lines are looked at.
func (r *Reader) hold(part []byte) {
	room := maxLine - len(r.partial)
	r.partial = append(r.partial, part[:min(room, len(part))]...)
}

// line looks at the line that ended.
func (r *Reader) line() {
	r.lines++
	text := string(r.partial)
	r.partial = r.partial[:0]
	if text == "" || len(r.matches) >= maxMatches {
		return
	}
	for _, s := range r.signs {
		if !s.in(text) || r.counts[s.Says] >= maxPerSign {
			continue
		}
		r.counts[s.Says]++
		r.matches = append(r.matches, Match{Sign: s.Sign, Line: r.lines, Text: clip(text, 300)})
		return // the first sign of a line is the most telling one
	}
}

// in tells whether a line has the sign.
func (c compiled) in(line string) bool {
	for _, word := range c.Any {
		if strings.Contains(line, word) {
			return c.pattern == nil || c.pattern.MatchString(line)
		}
	}
	return len(c.Any) == 0 && c.pattern != nil && c.pattern.MatchString(line)
}

// Found gives the signs met so far, in order, and the last traceback.
func (r *Reader) Found() ([]Match, *Traceback) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.partial) > 0 {
		r.line()
	}
	tail := r.tail[max(0, len(r.tail)-tailBytes):]
	return append([]Match(nil), r.matches...), Last(Tracebacks(string(tail)))
}
