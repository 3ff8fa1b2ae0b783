package route

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/prometheus/alertmanager/timeinterval"
	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"

	"github.com/vigil-ml/vigil/alerting/match"
)

// exported is a plan as an alertmanager.yml has it.
type exported struct {
	Route     exportedRoute      `yaml:"route"`
	Receivers []exportedReceiver `yaml:"receivers"`
	Inhibit   []exportedInhibit  `yaml:"inhibit_rules,omitempty"`
	Intervals []exportedInterval `yaml:"time_intervals,omitempty"`
}

type exportedRoute struct {
	Receiver string          `yaml:"receiver"`
	Matchers []string        `yaml:"matchers,omitempty"`
	Continue bool            `yaml:"continue,omitempty"`
	GroupBy  []string        `yaml:"group_by,omitempty"`
	Wait     model.Duration  `yaml:"group_wait"`
	Interval model.Duration  `yaml:"group_interval,omitempty"`
	Repeat   model.Duration  `yaml:"repeat_interval,omitempty"`
	Mute     []string        `yaml:"mute_time_intervals,omitempty"`
	Active   []string        `yaml:"active_time_intervals,omitempty"`
	Routes   []exportedRoute `yaml:"routes,omitempty"`
}

type exportedReceiver struct {
	Name string `yaml:"name"`
}

type exportedInhibit struct {
	Source []string `yaml:"source_matchers"`
	Target []string `yaml:"target_matchers"`
	Equal  []string `yaml:"equal,omitempty"`
}

type exportedInterval struct {
	Name  string                      `yaml:"name"`
	Times []timeinterval.TimeInterval `yaml:"time_intervals"`
}

// Alertmanager gives who is told of what as an alertmanager.yml says it, for
// programs that ask an Alertmanager for its own. Receivers are names alone, without
// their secrets; where a route tells several they are one, with all the names.
func (p *Plan) Alertmanager() (string, error) {
	names := map[string]bool{}
	out := exported{Route: p.Tree.root.export(names)}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		out.Receivers = append(out.Receivers, exportedReceiver{name})
	}
	for _, rule := range p.Inhibitions {
		out.Inhibit = append(out.Inhibit, exportedInhibit{texts(rule.Source), texts(rule.Target), rule.Equal})
	}
	for _, name := range slices.Sorted(maps.Keys(p.Intervals)) {
		out.Intervals = append(out.Intervals, exportedInterval{name, p.Intervals[name]})
	}
	text, err := yaml.Marshal(out)
	if err != nil {
		return "", fmt.Errorf("write routing tree: %w", err)
	}
	return string(text), nil
}

// export notes the receivers' names too.
func (r *Route) export(names map[string]bool) exportedRoute {
	out := exportedRoute{
		Receiver: strings.Join(r.Receivers, ", "), Matchers: texts(r.Matchers), Continue: r.goesOn, GroupBy: r.groupBy,
		Wait: model.Duration(r.Wait), Interval: model.Duration(r.Interval), Repeat: model.Duration(r.Repeat), Mute: r.Mute, Active: r.Active,
	}
	if len(r.Receivers) == 0 {
		out.Receiver = Nobody
	}
	names[out.Receiver] = true
	for _, child := range r.children {
		out.Routes = append(out.Routes, child.export(names))
	}
	return out
}

func texts(ms match.Matchers) []string {
	var all []string
	for _, m := range ms {
		all = append(all, m.String())
	}
	return all
}
