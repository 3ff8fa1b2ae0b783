// Package compat shows what the agent measures under the names of other
// exporters too, so that dashboards and alerts that were made for those work
// unchanged: dcgm-exporter's for GPUs and node_exporter's for the machine.
//
// Each format is a table (dcgm.go, node.go) from entries of the dictionary to
// the other's names, types, labels and units. What the agent does not measure is
// not there; docs/compat.md lists both.
package compat

import (
	"slices"
	"strings"
	"time"

	"github.com/vigil-ml/vigil/agent/page"
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

// New makes a source that shows the last samples in one format.
func New(format string, deps Deps) page.Source {
	e := &exposition{deps: deps, rules: map[string][]*rule{}}
	rules, extra := nodeRules(), nodeExtra
	if format == DCGM {
		rules, extra = dcgmRules(), dcgmExtra
	}
	e.extra = extra
	for _, r := range rules {
		e.rules[r.from.Name] = append(e.rules[r.from.Name], &r)
	}
	return e.show
}

// rule makes a value of the other exporter's out of a sample. Values of several
// rules or samples for one series add up.
type rule struct {
	from metric.Def
	// where is the labels that the sample must have, by name.
	where map[string]string
	to    page.Family
	// values is where each of the family's labels comes from.
	values []source
	// factor makes the other's unit of ours.
	factor float64
	// least is how many samples a series needs; 0 is one.
	least int
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
	extra func(samples []metric.Sample, k *known, p *page.Page)
}

// show adds the last samples to a page.
func (e *exposition) show(p *page.Page) {
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
			key := r.to.Name + "\xff" + strings.Join(labels, "\xff")
			if sums[key] == nil {
				sums[key] = &sum{rule: r, labels: labels}
				order = append(order, sums[key])
			}
			sums[key].value += s.Value * r.factor
			sums[key].parts++
		}
	}
	for _, s := range order {
		if s.parts >= s.rule.least {
			p.Add(s.rule.to, s.labels, s.value)
		}
	}
	e.extra(samples, k, p)
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
