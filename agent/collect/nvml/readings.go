package nvml

import (
	"github.com/vigil-ml/vigil/agent/collect/nvml/wire"
	"github.com/vigil-ml/vigil/internal/metric"
)

// readings is the last value of every series that a helper has named. A series
// keeps its value until the helper says that it is gone, since what hardly ever
// changes is read seldom.
type readings struct {
	defs   []metric.Def
	series []reading // by number, which counts from 1
}

type reading struct {
	def    metric.Def
	labels []string
	gpu    int
	value  float64
	known  bool
}

// maxSeries bounds what a helper that went mad can have the agent hold.
const maxSeries = 1 << 16

func newReadings() *readings { return &readings{defs: metric.GPUs()} }

// name takes a series; what cannot be is left out.
func (r *readings) name(s *wire.Series) {
	if s.Def < 0 || s.Def >= len(r.defs) || s.Ref < 1 || s.Ref > maxSeries || len(s.Labels) != len(r.defs[s.Def].Labels) {
		return
	}
	for len(r.series) < int(s.Ref) {
		r.series = append(r.series, reading{})
	}
	r.series[s.Ref-1] = reading{def: r.defs[s.Def], labels: s.Labels, gpu: s.GPU}
}

// take takes values, and that others are gone.
func (r *readings) take(v *wire.Values) {
	for i, ref := range v.Refs {
		if s := r.of(ref); s != nil {
			s.value, s.known = v.Values[i], true
		}
	}
	for _, ref := range v.Gone {
		if s := r.of(ref); s != nil {
			s.known = false
		}
	}
}

func (r *readings) of(ref uint32) *reading {
	if ref < 1 || int(ref) > len(r.series) || r.series[ref-1].labels == nil {
		return nil
	}
	return &r.series[ref-1]
}

// emit hands on every value that is known.
func (r *readings) emit(emit func(metric.Sample)) {
	for i := range r.series {
		if s := &r.series[i]; s.known {
			emit(metric.Sample{Def: s.def, Labels: s.labels, Value: s.value})
		}
	}
}

// tells tells whether anything is known of a GPU.
func (r *readings) tells(gpu int) bool {
	for i := range r.series {
		if r.series[i].known && r.series[i].gpu == gpu {
			return true
		}
	}
	return false
}
