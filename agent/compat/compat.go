// Package compat shows what the agent measures under the names of other
// exporters too, so that dashboards and alerts that were made for those work
// unchanged: dcgm-exporter's for GPUs and node_exporter's for the machine.
//
// Each format is a table (dcgm.go, node.go) from entries of the dictionary to
// the other's names, types, labels and units. What the agent does not measure is
// not there; docs/compat.md lists both.
package compat

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/metric"
)

// The formats.
const (
	DCGM = "dcgm"
	Node = "node"
)

// Parse reads a list of formats, such as "dcgm" or "dcgm,node"; an empty one is
// none. It fails with [fault.Invalid].
func Parse(text string) ([]string, error) {
	var formats []string
	for name := range strings.SplitSeq(text, ",") {
		switch name = strings.TrimSpace(name); name {
		case "":
		case DCGM, Node:
			if !slices.Contains(formats, name) {
				formats = append(formats, name)
			}
		default:
			return nil, fault.New(fault.Invalid, "there is no format %q; there are %s and %s", name, DCGM, Node)
		}
	}
	return formats, nil
}

// Deps is what an exposition works with.
type Deps struct {
	// Latest gives the last samples.
	Latest func(yield func(metric.Sample) bool)
	// Host is this node's name.
	Host  string
	Clock func() time.Time
}

// New makes a collector for a Prometheus registry that shows the last samples
// in one format. It is safe for concurrent use.
func New(format string, deps Deps) prometheus.Collector {
	e := &exposition{deps: deps, rules: map[string][]*rule{}}
	rules, extra := nodeRules(), nodeExtra
	if format == DCGM {
		rules, extra = dcgmRules(), dcgmExtra
	}
	e.extra = extra
	for _, r := range rules {
		r.desc = r.to.desc()
		e.rules[r.from.Name] = append(e.rules[r.from.Name], &r)
	}
	return e
}

// family is a metric of the other exporter.
type family struct {
	name   string
	kind   prometheus.ValueType
	help   string
	labels []string
}

func (f family) desc() *prometheus.Desc { return metric.Foreign(f.name, f.help, f.labels) }

// rule makes a value of the other exporter's out of a sample. Values of several
// rules or samples for one series add up.
type rule struct {
	from metric.Def
	// where is the labels that the sample must have, by name.
	where map[string]string
	to    family
	// values is where each of the family's labels comes from.
	values []source
	// factor makes the other's unit of ours.
	factor float64
	// least is how many samples a series needs; 0 is one.
	least int

	desc *prometheus.Desc
}

// source gives the value of a label; false leaves the sample out.
type source func(s metric.Sample, k *known) (string, bool)

// known is what some samples say about the others.
type known struct {
	host string
	now  time.Time
	gpus map[string]metric.Sample // vigil_gpu_info by GPU
	disk map[string]metric.Sample // vigil_host_disk_info by mount
}

type exposition struct {
	deps  Deps
	rules map[string][]*rule
	extra func(samples []metric.Sample, k *known) []prometheus.Metric
}

// Describe says nothing: which series there are is known only when they come.
func (e *exposition) Describe(chan<- *prometheus.Desc) {}

// Collect gives the last samples.
func (e *exposition) Collect(out chan<- prometheus.Metric) {
	samples := slices.Collect(e.deps.Latest)
	k := &known{host: e.deps.Host, now: e.deps.Clock(), gpus: map[string]metric.Sample{}, disk: map[string]metric.Sample{}}
	for _, s := range samples {
		switch s.Def.Name {
		case metric.GPUInfo.Name:
			k.gpus[s.Labels[0]] = s
		case metric.HostDiskInfo.Name:
			k.disk[s.Labels[0]] = s
		}
	}
	sums, order := map[string]*sum{}, []*sum(nil)
	for _, s := range samples {
		for _, r := range e.rules[s.Def.Name] {
			labels, ok := r.apply(s, k)
			if !ok {
				continue
			}
			key := r.to.name + "\xff" + strings.Join(labels, "\xff")
			if sums[key] == nil {
				sums[key] = &sum{rule: r, labels: labels}
				order = append(order, sums[key])
			}
			sums[key].value += s.Value * r.factor
			sums[key].parts++
		}
	}
	for _, s := range order {
		if m, err := s.metric(); err == nil {
			out <- m
		}
	}
	for _, m := range e.extra(samples, k) {
		out <- m
	}
}

// apply gives the labels that a rule makes of a sample.
func (r *rule) apply(s metric.Sample, k *known) ([]string, bool) {
	for name, want := range r.where {
		if label(s, name) != want {
			return nil, false
		}
	}
	labels := make([]string, len(r.values))
	for i, from := range r.values {
		value, ok := from(s, k)
		if !ok {
			return nil, false
		}
		labels[i] = value
	}
	return labels, true
}

// sum is a series while its values are added up.
type sum struct {
	rule   *rule
	labels []string
	value  float64
	parts  int
}

func (s *sum) metric() (prometheus.Metric, error) {
	if s.parts < s.rule.least {
		return nil, fault.New(fault.Invalid, "%s has %d of %d parts", s.rule.to.name, s.parts, s.rule.least)
	}
	m, err := prometheus.NewConstMetric(s.rule.desc, s.rule.to.kind, s.value, s.labels...)
	if err != nil {
		return nil, fmt.Errorf("show %s: %w", s.rule.to.name, err)
	}
	return m, nil
}

// label gives a sample's label by name; empty where it has none of that name.
func label(s metric.Sample, name string) string {
	if i := slices.Index(s.Def.Labels, name); i >= 0 && i < len(s.Labels) {
		return s.Labels[i]
	}
	return ""
}

// own is a label of the sample itself.
func own(name string) source {
	return func(s metric.Sample, _ *known) (string, bool) { return label(s, name), true }
}
