package collect

import (
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vigil-ml/vigil/internal/metric"
)

// staleAfter is how many intervals a collector's samples are shown.
const staleAfter = 3

// Exposition shows the last samples of every collector on /metrics. Samples
// older than three intervals and a timeout are left out, so that a collector
// that is stuck does not look alive. Register it with a registry.
func (r *Runner) Exposition() prometheus.Collector {
	return &exposition{runner: r, descs: map[string]*prometheus.Desc{}}
}

type exposition struct {
	runner *Runner

	mu    sync.Mutex
	descs map[string]*prometheus.Desc // by name: making one costs more than all else here
}

func (e *exposition) desc(def metric.Def) *prometheus.Desc {
	e.mu.Lock()
	defer e.mu.Unlock()
	desc := e.descs[def.Name]
	if desc == nil {
		desc = def.Desc()
		e.descs[def.Name] = desc
	}
	return desc
}

// Describe says nothing: which series there are is known only when they come.
func (*exposition) Describe(chan<- *prometheus.Desc) {}

// Collect gives the last samples. Of two for one series the first is given;
// one that does not fit its entry in the dictionary is left out, because it
// would spoil the whole page.
func (e *exposition) Collect(out chan<- prometheus.Metric) {
	seen := map[string]bool{}
	for sample := range e.runner.Latest {
		key := seriesKey(sample)
		if seen[key] {
			continue
		}
		seen[key] = true
		kind := prometheus.GaugeValue
		if sample.Def.Type == metric.Counter {
			kind = prometheus.CounterValue
		}
		if m, err := prometheus.NewConstMetric(e.desc(sample.Def), kind, sample.Value, sample.Labels...); err == nil {
			out <- m
		}
	}
}

// Latest gives the last samples of every collector, but for those older than
// three intervals and a timeout. It is safe for concurrent use.
func (r *Runner) Latest(yield func(metric.Sample) bool) {
	for _, s := range r.current() {
		for _, sample := range s.fresh(r.deps.Clock()) {
			if !yield(sample) {
				return
			}
		}
	}
}

// seriesKey tells a sample's series from others.
func seriesKey(s metric.Sample) string { return s.Def.Name + "\xff" + strings.Join(s.Labels, "\xff") }

// fresh gives the last samples unless they are too old.
func (s *source) fresh(now time.Time) []metric.Sample {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.taken) > staleAfter*s.Interval+s.Timeout {
		return nil
	}
	return s.samples
}
