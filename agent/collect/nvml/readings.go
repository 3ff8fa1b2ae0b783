package nvml

import (
	"strconv"

	"github.com/vigil-ml/vigil/agent/collect/nvml/wire"
	"github.com/vigil-ml/vigil/internal/metric"
)

// readings is the last value of every series that a helper has named. A series
// keeps its value until the helper says that it is gone, since what hardly ever
// changes is read seldom.
type readings struct {
	defs   []metric.Def
	series []reading // by number, which counts from 1
	// owner gives the run and the rank of a process; empty where nobody
	// registered it.
	owner func(pid int64) (run, rank string)
}

type reading struct {
	def    int // in defs
	labels []string
	gpu    int
	value  float64
	known  bool
	// pid is the process that the series is about, until its run is known.
	pid int64
}

// maxSeries bounds what a helper that went mad can have the agent hold.
const maxSeries = 1 << 16

func newReadings(owner func(pid int64) (run, rank string)) *readings {
	return &readings{defs: metric.GPUs(), owner: owner}
}

// name takes a series; what cannot be is left out.
func (r *readings) name(s *wire.Series) {
	if s.Def < 0 || s.Def >= len(r.defs) || s.Ref < 1 || s.Ref > maxSeries {
		return
	}
	pid := int64(0)
	if r.defs[s.Def].Name == metric.GPUProcessMemory.Name && len(s.Labels) == 2 {
		// The helper knows the process, and the agent whose it is.
		pid, _ = strconv.ParseInt(s.Labels[1], 10, 64)
		s.Labels = append(s.Labels, "", "")
	}
	if len(s.Labels) != len(r.defs[s.Def].Labels) {
		return
	}
	for len(r.series) < int(s.Ref) {
		r.series = append(r.series, reading{})
	}
	r.series[s.Ref-1] = reading{def: s.Def, labels: s.Labels, gpu: s.GPU, pid: pid}
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
			r.settle(s)
			emit(metric.Sample{Def: r.defs[s.def], Labels: s.labels, Value: s.value})
		}
	}
}

// settle names the run of a process once it is known. The labels that were
// handed on stay as they are.
func (r *readings) settle(s *reading) {
	if s.pid == 0 {
		return
	}
	if run, rank := r.owner(s.pid); run != "" {
		s.labels, s.pid = []string{s.labels[0], s.labels[1], run, rank}, 0
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
