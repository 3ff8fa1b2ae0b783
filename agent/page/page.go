// Package page writes metrics as Prometheus reads them: its text format, version
// 0.0.4, and OpenMetrics for who asks for it.
//
// What the agent measures is some thousand series, read every few seconds for as
// long as the machine lives. Through client_golang each of them is a handful of
// objects and a message before it is a line; here it is the line. What the agent
// counts about itself comes from client_golang all the same ([Handler]).
package page

import (
	"fmt"
	"hash/maphash"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"github.com/vigil-ml/vigil/internal/metric"
)

// Family is what series of one name have in common.
type Family struct {
	Name, Help string
	Type       metric.Type // Gauge or Counter
	Labels     []string    // their names
}

// Page is one page while it is made. It is for one goroutine; make one with
// [New].
type Page struct {
	families map[string]int // where in order
	order    []family
	text     []byte // every line, in the order in which they came
	lines    []line
	seen     map[uint64]int // the line of a series, by a hash of how it is written
	seed     maphash.Seed
}

type family struct {
	Family
	first, last int // lines
}

// line is where a line is in the text; the family's next one, or -1.
type line struct{ begin, value, end, next int }

// New makes an empty page, with room for as many lines and bytes as are expected.
func New(lineCount, sizeBytes int) *Page {
	return &Page{
		families: map[string]int{}, seen: make(map[uint64]int, lineCount), seed: maphash.MakeSeed(),
		text: make([]byte, 0, sizeBytes), lines: make([]line, 0, lineCount),
	}
}

// Add adds a value. Of two for one series the first counts; one whose labels are
// too few, too many or not UTF-8 is left out, because it would spoil the whole
// page.
func (p *Page) Add(f Family, values []string, value float64) {
	if len(values) != len(f.Labels) {
		return
	}
	for _, v := range values {
		if !utf8.ValidString(v) {
			return
		}
	}
	begin := len(p.text)
	p.text = appendSeries(p.text, f, values)
	hash, there := p.find(p.text[begin:])
	if there {
		p.text = p.text[:begin]
		return
	}
	n := len(p.lines)
	p.seen[hash] = n
	end := len(p.text)
	p.text = append(appendValue(append(p.text, ' '), value), '\n')
	p.lines = append(p.lines, line{begin, end, len(p.text), -1})
	at, known := p.families[f.Name]
	if !known {
		p.families[f.Name] = len(p.order)
		p.order = append(p.order, family{f, n, n})
		return
	}
	p.lines[p.order[at].last].next = n
	p.order[at].last = n
}

// find tells whether a series has a line, and where to note it when it has none.
func (p *Page) find(series []byte) (hash uint64, there bool) {
	for hash = maphash.Bytes(p.seed, series); ; hash++ {
		n, taken := p.seen[hash]
		if !taken {
			return hash, false
		}
		if l := p.lines[n]; string(p.text[l.begin:l.value]) == string(series) {
			return hash, true
		}
	}
}

func appendSeries(text []byte, f Family, values []string) []byte {
	text = append(text, f.Name...)
	for i, name := range f.Labels {
		text = append(text, "{,"[min(i, 1)])
		text = append(append(text, name...), `="`...)
		text = append(appendEscaped(text, values[i], true), '"')
	}
	if len(f.Labels) > 0 {
		text = append(text, '}')
	}
	return text
}

// appendEscaped writes a label's value, or a help without its quotes.
func appendEscaped(text []byte, value string, quotes bool) []byte {
	if !strings.ContainsAny(value, "\\\n\"") {
		return append(text, value...)
	}
	for i := range len(value) {
		switch c := value[i]; {
		case c == '\n':
			text = append(text, `\n`...)
		case c == '\\' || (c == '"' && quotes):
			text = append(text, '\\', c)
		default:
			text = append(text, c)
		}
	}
	return text
}

// appendValue writes a number; Go's names for what is none are Prometheus' too.
func appendValue(text []byte, value float64) []byte {
	return strconv.AppendFloat(text, value, 'g', -1, 64)
}

// WriteTo writes what was added, families in the order in which they came.
func (p *Page) WriteTo(w io.Writer) (int64, error) { return p.write(w, Family.head) }

// head is what a family is called above its lines, and its type.
func (f Family) head() (name string, kind metric.Type) { return f.Name, f.Type }

// openHead is head in OpenMetrics, where counters are called without _total; one
// of another exporter's that has another name is of no type there.
func (f Family) openHead() (name string, kind metric.Type) {
	name, total := strings.CutSuffix(f.Name, "_total")
	switch {
	case f.Type == metric.Gauge:
		return f.Name, f.Type
	case f.Type == metric.Counter && total:
		return name, f.Type
	}
	return f.Name, "unknown"
}

func (p *Page) write(w io.Writer, headOf func(Family) (string, metric.Type)) (int64, error) {
	var sum int64
	put := func(part []byte) error {
		n, err := w.Write(part)
		if sum += int64(n); err != nil {
			return fmt.Errorf("write metrics: %w", err)
		}
		return nil
	}
	var head []byte
	for _, f := range p.order {
		name, kind := headOf(f.Family)
		head = append(append(append(head[:0], "# HELP "...), name...), ' ')
		head = append(append(append(appendEscaped(head, f.Help, false), "\n# TYPE "...), name...), ' ')
		if err := put(append(append(head, kind...), '\n')); err != nil {
			return sum, err
		}
		for at := f.first; at >= 0; at = p.lines[at].next {
			if err := put(p.text[p.lines[at].begin:p.lines[at].end]); err != nil {
				return sum, err
			}
		}
	}
	return sum, nil
}

// Source adds what it has to a page. It is safe for concurrent use.
type Source func(*Page)

// Handler serves a page of what a program counts about itself and of sources,
// made anew for each request. It does not compress: it is for loopback, where
// that costs more than it saves.
func Handler(own prometheus.Gatherer, sources ...Source) http.Handler {
	var lineCount, sizeBytes atomic.Int64 // of the last page
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		families, err := own.Gather()
		if err != nil {
			http.Error(w, fmt.Sprintf("gather metrics: %v", err), http.StatusInternalServerError)
			return
		}
		format, headOf := expfmt.NewFormat(expfmt.TypeTextPlain), Family.head
		if asked := expfmt.NegotiateAccept(r.Header, expfmt.DefaultOpenMetricsAcceptedFormats()...); asked.FormatType() == expfmt.TypeOpenMetrics {
			format, headOf = asked, Family.openHead // it has exemplars
		}
		w.Header().Set("Content-Type", string(format))
		// What fails from here on is the way to whoever asked.
		encoder := expfmt.NewEncoder(w, format)
		for _, f := range families {
			_ = encoder.Encode(f)
		}
		p := New(int(lineCount.Load()), int(sizeBytes.Load()))
		for _, add := range sources {
			add(p)
		}
		lineCount.Store(int64(len(p.lines)))
		sizeBytes.Store(int64(len(p.text)))
		_, _ = p.write(w, headOf)
		if closer, ok := encoder.(expfmt.Closer); ok {
			_ = closer.Close() // OpenMetrics has an end
		}
	})
}
