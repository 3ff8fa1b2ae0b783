package route

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/vigil-ml/vigil/alerting/match"
)

// InhibitConfig keeps alerts quiet while others fire, as Alertmanager does.
type InhibitConfig struct {
	// SourceMatchers say what inhibits; TargetMatchers what is inhibited.
	SourceMatchers []string `yaml:"source_matchers"`
	TargetMatchers []string `yaml:"target_matchers"`
	// The same in Alertmanager's old words.
	SourceMatch   map[string]string `yaml:"source_match"`
	SourceMatchRE map[string]string `yaml:"source_match_re"`
	TargetMatch   map[string]string `yaml:"target_match"`
	TargetMatchRE map[string]string `yaml:"target_match_re"`
	// Equal names the labels that both have alike.
	Equal []string `yaml:"equal"`
}

// Check reports matchers that are none.
func (c InhibitConfig) Check(report func(key, format string, args ...any)) {
	if _, err := NewInhibition(c); err != nil {
		report("source_matchers", "%v", err)
	}
}

// Inhibition is a rule that keeps alerts quiet.
type Inhibition struct {
	// ID is the same for the same rule.
	ID             string
	Source, Target match.Matchers
	Equal          []string
}

// NewInhibition reads a rule.
func NewInhibition(c InhibitConfig) (Inhibition, error) {
	side := func(equal, expressions map[string]string, texts []string) (match.Matchers, error) {
		old, err := match.Old(equal, expressions)
		if err != nil {
			return nil, err
		}
		parsed, err := match.Parse(texts...)
		return match.Sorted(append(old, parsed...)), err
	}
	source, err := side(c.SourceMatch, c.SourceMatchRE, c.SourceMatchers)
	if err != nil {
		return Inhibition{}, err
	}
	target, err := side(c.TargetMatch, c.TargetMatchRE, c.TargetMatchers)
	if err != nil {
		return Inhibition{}, err
	}
	id := fmt.Sprintf("%s>%s=%s", source, target, strings.Join(c.Equal, ","))
	return Inhibition{ID: id, Source: source, Target: target, Equal: c.Equal}, nil
}

// Likeness is what two alerts have alike when their equal labels are; a label
// that is not there is like an empty one.
func (i Inhibition) Likeness(labels map[string]string) string {
	alike := map[string]string{}
	for _, name := range i.Equal {
		alike[name] = labels[name]
	}
	return LabelText(alike)
}

// EscalationConfig tells more people of an incident that nobody acknowledges.
type EscalationConfig struct {
	Name string `yaml:"name"`
	// Matchers say which incidents; none means all.
	Matchers []string `yaml:"matchers"`
	// Steps come one after the other until somebody acknowledges.
	Steps []EscalationStep `yaml:"steps"`
}

// EscalationStep is who is told after how long.
type EscalationStep struct {
	// After is the time since the step before, or since the incident began.
	After time.Duration `yaml:"after"`
	// Receivers are told.
	Receivers []string `yaml:"receivers"`
}

// Check reports steps that are none.
func (c EscalationConfig) Check(report func(key, format string, args ...any)) {
	if c.Name == "" {
		report("name", "is missing")
	}
	if _, err := match.Parse(c.Matchers...); err != nil {
		report("matchers", "%v", err)
	}
	if len(c.Steps) == 0 {
		report("steps", "is empty; want at least one step")
	}
	for n, step := range c.Steps {
		if step.After <= 0 || len(step.Receivers) == 0 {
			report("steps", "step %d: want after, more than 0, and receivers", n+1)
		}
	}
}

// Escalation is an [EscalationConfig] that was read.
type Escalation struct {
	Name     string
	Matchers match.Matchers
	Steps    []EscalationStep
}

// HeartbeatConfig tells a receiver regularly that Vigil is alive: a service that
// calls somebody when the word stays away.
type HeartbeatConfig struct {
	Name     string        `yaml:"name"`
	Receiver string        `yaml:"receiver"`
	Interval time.Duration `yaml:"interval"`
}

// Check reports what is missing.
func (c HeartbeatConfig) Check(report func(key, format string, args ...any)) {
	if c.Name == "" || c.Receiver == "" {
		report("name", "want a name and a receiver")
	}
	if c.Interval < time.Second {
		report("interval", "is %v; want at least 1s", c.Interval)
	}
}

// Settings is all that decides who is told what.
type Settings struct {
	Route       *Config
	Inhibit     []InhibitConfig
	Intervals   []IntervalConfig
	Escalations []EscalationConfig
	Heartbeats  []HeartbeatConfig
	Storm       StormConfig
	// Receivers has every receiver's name, and whether it wants to hear of what
	// is over.
	Receivers map[string]bool
	// Order is the receivers' names in the order of the configuration.
	Order []string
}

// Plan is settings that were read. It is read-only.
type Plan struct {
	Tree         *Tree
	Inhibitions  []Inhibition
	Intervals    Intervals
	Escalations  []Escalation
	Heartbeats   []HeartbeatConfig
	Storm        StormConfig
	SendResolved map[string]bool
}

// NewPlan reads settings; no route means [Everybody].
func NewPlan(s Settings) (*Plan, error) {
	if wrong := s.wrong(); len(wrong) > 0 {
		return nil, fmt.Errorf("read routing: %s", strings.Join(wrong, "; "))
	}
	config := Everybody(s.Order)
	if s.Route != nil {
		config = *s.Route
	}
	p := &Plan{Heartbeats: s.Heartbeats, Storm: s.Storm, SendResolved: maps.Clone(s.Receivers)}
	var err error
	if p.Tree, err = New(config); err != nil {
		return nil, err
	}
	if p.Intervals, err = NewIntervals(s.Intervals); err != nil {
		return nil, err
	}
	for _, c := range s.Inhibit {
		rule, err := NewInhibition(c)
		if err != nil {
			return nil, err
		}
		p.Inhibitions = append(p.Inhibitions, rule)
	}
	for _, c := range s.Escalations {
		matchers, err := match.Parse(c.Matchers...)
		if err != nil {
			return nil, err
		}
		p.Escalations = append(p.Escalations, Escalation{c.Name, matchers, c.Steps})
	}
	return p, nil
}

// wrong gives the names that settings use and nothing has.
func (s Settings) wrong() []string {
	var receivers, intervals, wrong []string
	if s.Route != nil {
		wrong = s.Route.CheckRoot()
		receivers, intervals = s.Route.Names()
	}
	for _, e := range s.Escalations {
		for _, step := range e.Steps {
			receivers = append(receivers, step.Receivers...)
		}
	}
	for _, h := range s.Heartbeats {
		receivers = append(receivers, h.Receiver)
	}
	receivers = append(receivers, s.Storm.Except...)
	for _, name := range receivers {
		if _, ok := s.Receivers[name]; !ok {
			wrong = append(wrong, fmt.Sprintf("there is no receiver %q", name))
		}
	}
	for _, name := range intervals {
		if !slices.ContainsFunc(s.Intervals, func(i IntervalConfig) bool { return i.Name == name }) {
			wrong = append(wrong, fmt.Sprintf("there is no time interval %q", name))
		}
	}
	return wrong
}
