// Package metric is the dictionary of every metric that Vigil has: its name,
// unit, type, labels and meaning. Nothing is measured, stored or shown under a
// name that is not here, and the reference pages derive from it.
//
// Names follow Prometheus: they begin with vigil_, end in their base unit
// (seconds, bytes, ratio, ...), and counters end in _total.
package metric

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Type is how values of a metric relate in time.
type Type string

// The types.
const (
	Gauge     Type = "gauge"     // goes up and down
	Counter   Type = "counter"   // only ever grows, or starts anew at 0
	Histogram Type = "histogram" // counts by size
)

// Def is one entry of the dictionary.
type Def struct {
	Name   string
	Unit   string // base unit: "bytes", "seconds", "ratio", "celsius", "watts", "1" for counts
	Type   Type
	Labels []string // without the node, which the control plane adds
	Help   string   // one sentence
}

// Sample is one value of one series at one time.
type Sample struct {
	Def    Def
	Labels []string // values, in the order of Def.Labels
	Value  float64
	Time   time.Time
}

// All is the whole dictionary.
func All() []Def {
	var all []Def
	for _, part := range [][]Def{hostDefs(), processDefs(), fabricDefs(), GPUs(), runDefs(), agentDefs(), controlDefs(), exportDefs(), backlogDefs()} {
		all = append(all, part...)
	}
	return all
}

// Lookup finds an entry by its name.
func Lookup(name string) (Def, bool) {
	for _, def := range All() {
		if def.Name == name {
			return def, true
		}
	}
	return Def{}, false
}

// ObserveTraced observes a value with the trace that it was measured in, a W3C
// trace context, as its exemplar; an empty or malformed one leaves that out.
func ObserveTraced(o prometheus.Observer, value float64, traceparent string) {
	parts := strings.Split(traceparent, "-")
	traced, ok := o.(prometheus.ExemplarObserver)
	if !ok || len(parts) != 4 || len(parts[1]) != 32 || len(parts[2]) != 16 {
		o.Observe(value)
		return
	}
	traced.ObserveWithExemplar(value, prometheus.Labels{"trace_id": parts[1], "span_id": parts[2]})
}

// Desc is the entry as client_golang describes metrics.
func (d Def) Desc() *prometheus.Desc {
	return prometheus.NewDesc(d.Name, d.Help, d.Labels, nil)
}

// NewCounter registers a counter of a program about itself. A second
// registration of the same entry at the same registry is a bug and panics.
func NewCounter(reg prometheus.Registerer, d Def) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: d.Name, Help: d.Help}, d.Labels)
	reg.MustRegister(v)
	return v
}

// NewGauge registers a gauge of a program about itself.
func NewGauge(reg prometheus.Registerer, d Def) *prometheus.GaugeVec {
	v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: d.Name, Help: d.Help}, d.Labels)
	reg.MustRegister(v)
	return v
}

// NewGaugeFunc registers a gauge without labels whose value a function gives
// when it is asked for; the function is safe for concurrent use.
func NewGaugeFunc(reg prometheus.Registerer, d Def, value func() float64) {
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: d.Name, Help: d.Help}, value))
}

// NewLatency registers a histogram of durations in seconds, from half a
// millisecond to about four minutes.
func NewLatency(reg prometheus.Registerer, d Def) *prometheus.HistogramVec {
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: d.Name, Help: d.Help, Buckets: prometheus.ExponentialBuckets(0.0005, 2, 20),
	}, d.Labels)
	reg.MustRegister(v)
	return v
}
