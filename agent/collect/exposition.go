package collect

import (
	"strings"
	"time"

	"github.com/vigil-ml/vigil/agent/page"
	"github.com/vigil-ml/vigil/internal/metric"
)

// staleAfter is how many intervals a collector's samples are shown.
const staleAfter = 3

// Show adds the last samples of every collector to a page. Samples older than
// three intervals and a timeout are left out, so that a collector that is stuck
// does not look alive. It is safe for concurrent use.
func (r *Runner) Show(p *page.Page) {
	for sample := range r.Latest {
		def := sample.Def
		p.Add(page.Family{Name: def.Name, Help: def.Help, Type: def.Type, Labels: def.Labels}, sample.Labels, sample.Value)
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
