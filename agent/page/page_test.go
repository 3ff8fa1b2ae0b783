package page

import (
	"bytes"
	"math"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/vigil-ml/vigil/internal/metric"
)

func text(t *testing.T, p *Page) string {
	t.Helper()
	var b strings.Builder
	n, err := p.WriteTo(&b)
	if err != nil || n != int64(b.Len()) {
		t.Errorf("WriteTo = %d, %v; it wrote %d", n, err, b.Len())
	}
	return b.String()
}

func TestPage(t *testing.T) {
	power := Family{"power_watts", "Power\nin \\watts\\.", metric.Gauge, []string{"gpu", "name"}}
	reads := Family{"reads_total", `What was "read".`, metric.Counter, nil}
	p := New(0, 0)
	p.Add(power, []string{"0", `C:\dir "x"` + "\nend"}, 1.5)
	p.Add(reads, nil, 1e21)
	p.Add(power, []string{"0", `C:\dir "x"` + "\nend"}, 2) // the series is there
	p.Add(power, []string{"1", ""}, math.Inf(-1))
	p.Add(power, []string{"2"}, 0)
	p.Add(power, []string{"2", "\xff"}, 0)
	p.Add(reads, []string{"2"}, 0)
	want := `# HELP power_watts Power\nin \\watts\\.
# TYPE power_watts gauge
power_watts{gpu="0",name="C:\\dir \"x\"\nend"} 1.5
power_watts{gpu="1",name=""} -Inf
# HELP reads_total What was "read".
# TYPE reads_total counter
reads_total 1e+21
`
	if diff := cmp.Diff(want, text(t, p)); diff != "" {
		t.Errorf("(- want, + got):\n%s", diff)
	}
	if got := text(t, New(0, 0)); got != "" {
		t.Errorf("an empty page has %q", got)
	}
}

// What Prometheus' own library reads of a page is what was put in.
func TestPageIsReadAsItWasMeant(t *testing.T) {
	f := Family{"value", "h", metric.Gauge, []string{"l"}}
	values := map[string]float64{
		"plain": 1, "tiny": math.SmallestNonzeroFloat64, "large": math.MaxFloat64, "third": 1.0 / 3, "minus zero": math.Copysign(0, -1),
		"inf": math.Inf(1), `back\slash`: 2, `quo"te`: 3, "new\nline": 4, "ünï": 5, `\n`: 6, "": 7, `trailing\`: 8,
	}
	p := New(0, 0)
	for label, value := range values {
		p.Add(f, []string{label}, value)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text(t, p)))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, m := range families["value"].GetMetric() {
		got[m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue()
	}
	if diff := cmp.Diff(values, got); diff != "" {
		t.Errorf("(- want, + got):\n%s", diff)
	}
}

func FuzzLabels(f *testing.F) {
	f.Add("a", `b"\`, 1.0)
	f.Fuzz(func(t *testing.T, one, two string, value float64) {
		p := New(0, 0)
		p.Add(Family{"m", one, metric.Gauge, []string{"a", "b"}}, []string{one, two}, value)
		written := text(t, p)
		parser := expfmt.NewTextParser(model.LegacyValidation)
		families, err := parser.TextToMetricFamilies(strings.NewReader(written))
		if err != nil {
			t.Fatalf("%q: %v", written, err)
		}
		if written == "" {
			return // not UTF-8
		}
		labels := families["m"].GetMetric()[0].GetLabel()
		if labels[0].GetValue() != one || labels[1].GetValue() != two {
			t.Errorf("%q and %q come back as %v", one, two, labels)
		}
	})
}

func TestHandler(t *testing.T) {
	own := prometheus.NewRegistry()
	metric.NewGauge(own, metric.AgentUplinkConnected).WithLabelValues().Set(1)
	show := func(name string) Source {
		return func(p *Page) { p.Add(Family{name, "h", metric.Gauge, nil}, nil, 7) }
	}
	w := httptest.NewRecorder()
	Handler(own, show("one"), show("two")).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if kind := w.Header().Get("Content-Type"); w.Code != 200 || !strings.HasPrefix(kind, "text/plain; version=0.0.4") {
		t.Errorf("status %d, %s", w.Code, kind)
	}
	for _, line := range []string{"vigil_agent_uplink_connected 1\n", "one 7\n", "two 7\n"} {
		if !strings.Contains(w.Body.String(), line) {
			t.Errorf("%q is not in\n%s", line, w.Body)
		}
	}
}

func TestOpenMetricsForWhoAsks(t *testing.T) {
	own := prometheus.NewRegistry()
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "own_total", Help: "h"})
	own.MustRegister(counter)
	counter.(prometheus.ExemplarAdder).AddWithExemplar(3, prometheus.Labels{"trace_id": "abc"})
	show := func(p *Page) {
		p.Add(Family{"reads_total", "h", metric.Counter, nil}, nil, 7)
		p.Add(Family{"DCGM_ERRORS", "h", metric.Counter, nil}, nil, 8)
		p.Add(Family{"watts", "h", metric.Gauge, nil}, nil, 9)
	}
	r := httptest.NewRequest("GET", "/metrics", nil)
	r.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	w := httptest.NewRecorder()
	Handler(own, show).ServeHTTP(w, r)
	text := w.Body.String()
	for _, part := range []string{
		`own_total 3.0 # {trace_id="abc"} 3.0`, "# TYPE reads counter\nreads_total 7\n", "# TYPE DCGM_ERRORS unknown\nDCGM_ERRORS 8\n", "# TYPE watts gauge\nwatts 9\n",
	} {
		if !strings.Contains(text, part) {
			t.Errorf("%q is not in\n%s", part, text)
		}
	}
	if !strings.HasSuffix(text, "\n# EOF\n") || !strings.HasPrefix(w.Header().Get("Content-Type"), "application/openmetrics-text") {
		t.Errorf("%s:\n%s", w.Header().Get("Content-Type"), text)
	}
}

// broken cannot be gathered.
type broken struct{}

func (broken) Gather() ([]*dto.MetricFamily, error) { return nil, errBroken{} }

type errBroken struct{}

func (errBroken) Error() string { return "two of one name" }

func TestHandlerSaysWhatIsWrong(t *testing.T) {
	w := httptest.NewRecorder()
	Handler(broken{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 500 || !strings.Contains(w.Body.String(), "two of one name") {
		t.Errorf("status %d: %s", w.Code, w.Body)
	}
}

// BenchmarkPage is a page of a node with eight GPUs, beside client_golang's way.
func BenchmarkPage(b *testing.B) {
	const series = 900
	f := Family{"vigil_gpu_power_watts", "Power that the GPU draws.", metric.Gauge, []string{"gpu", "what"}}
	labels := make([][]string, series)
	for i := range labels {
		labels[i] = []string{string(rune('0' + i%8)), strconv.Itoa(i)}
	}
	b.Run("ours", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			p := New(0, 0)
			for i, l := range labels {
				p.Add(f, l, float64(i))
			}
			_, _ = p.WriteTo(&bytes.Buffer{})
		}
	})
	b.Run("client_golang", func(b *testing.B) {
		reg := prometheus.NewRegistry()
		reg.MustRegister(constant{prometheus.NewDesc(f.Name, f.Help, f.Labels, nil), labels})
		b.ReportAllocs()
		for b.Loop() {
			families, _ := reg.Gather()
			for _, m := range families {
				_, _ = expfmt.MetricFamilyToText(&bytes.Buffer{}, m)
			}
		}
	})
}

type constant struct {
	desc   *prometheus.Desc
	labels [][]string
}

func (constant) Describe(chan<- *prometheus.Desc) {}

func (c constant) Collect(out chan<- prometheus.Metric) {
	for i, l := range c.labels {
		out <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(i), l...)
	}
}
