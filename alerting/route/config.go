// Package route decides who is told of an alert: a tree of routes with
// Alertmanager's semantics.
//
// An alert enters the tree at its root and goes down into the first child whose
// matchers match, and on to the next children where that one says continue. The
// deepest routes that match have it. What a route does not say it has from the
// one above it. Everything is pure: a tree is read-only and safe for concurrent
// use.
package route

import (
	"fmt"
	"slices"
	"time"

	"github.com/vigil-ml/vigil/alerting/match"
)

// Config is one node of the tree, as users write it.
type Config struct {
	// Receiver is who is told; empty means the one of the route above, "nobody"
	// that nobody is.
	Receiver string `yaml:"receiver"`
	// Receivers is Receiver for several: each is told by itself.
	Receivers []string `yaml:"receivers"`
	// Matchers say which alerts come here: severity="critical".
	Matchers []string `yaml:"matchers"`
	// Match and MatchRE are matchers in Alertmanager's old words.
	Match   map[string]string `yaml:"match"`
	MatchRE map[string]string `yaml:"match_re"`
	// Continue has the siblings behind this route looked at too.
	Continue bool `yaml:"continue"`
	// GroupBy names the labels by which alerts are told together; "..." means by
	// all, each by itself. Default: incident.
	GroupBy []string `yaml:"group_by"`
	// GroupWait is how long a new group waits for company; default 0.
	GroupWait *time.Duration `yaml:"group_wait"`
	// GroupInterval is the least time between two notifications of a group. Not
	// set: what ends or worsens is told at once, and other changes every 30s.
	GroupInterval *time.Duration `yaml:"group_interval"`
	// RepeatInterval is after which time a group that did not change is told
	// again; default 4h. Not while it is acknowledged.
	RepeatInterval *time.Duration `yaml:"repeat_interval"`
	// MuteTimeIntervals and ActiveTimeIntervals name the times when nothing is
	// told, and outside of which nothing is.
	MuteTimeIntervals   []string `yaml:"mute_time_intervals"`
	ActiveTimeIntervals []string `yaml:"active_time_intervals"`
	// Routes are the routes below this one.
	Routes []Config `yaml:"routes"`
}

// Check reports matchers that are none and times that make no sense, here and
// below.
func (c Config) Check(report func(key, format string, args ...any)) {
	if _, err := c.matchers(); err != nil {
		report("matchers", "%v", err)
	}
	if c.Receiver != "" && len(c.Receivers) > 0 {
		report("receivers", "and receiver are both given; want one of them")
	}
	for key, d := range map[string]*time.Duration{
		"group_wait": c.GroupWait, "group_interval": c.GroupInterval, "repeat_interval": c.RepeatInterval,
	} {
		if d != nil && (*d < 0 || (*d == 0 && key != "group_wait")) {
			report(key, "is %v; want more than 0", *d)
		}
	}
	if len(c.GroupBy) > 1 && slices.Contains(c.GroupBy, everyLabel) {
		report("group_by", `has "..." and others; want one or the other`)
	}
	if duplicate := firstDuplicate(c.GroupBy); duplicate != "" {
		report("group_by", "names %q twice", duplicate)
	}
}

func firstDuplicate(names []string) string {
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			return name
		}
	}
	return ""
}

// matchers gives all of the node's matchers, in the order in which
// Alertmanager's key has them.
func (c Config) matchers() (match.Matchers, error) {
	old, err := match.Old(c.Match, c.MatchRE)
	if err != nil {
		return nil, err
	}
	parsed, err := match.Parse(c.Matchers...)
	if err != nil {
		return nil, err
	}
	return match.Sorted(append(old, parsed...)), nil
}

// Names gives every receiver and every time interval that the tree names, each
// once.
func (c Config) Names() (receivers, intervals []string) {
	add := func(to *[]string, names ...string) {
		for _, name := range names {
			if name != "" && name != Nobody && !slices.Contains(*to, name) {
				*to = append(*to, name)
			}
		}
	}
	var walk func(Config)
	walk = func(c Config) {
		add(&receivers, c.Receiver)
		add(&receivers, c.Receivers...)
		add(&intervals, c.MuteTimeIntervals...)
		add(&intervals, c.ActiveTimeIntervals...)
		for _, below := range c.Routes {
			walk(below)
		}
	}
	walk(c)
	return receivers, intervals
}

// CheckRoot gives what is wrong with a tree's root alone, one text each.
func (c Config) CheckRoot() []string {
	var wrong []string
	if c.Receiver == "" && len(c.Receivers) == 0 {
		wrong = append(wrong, "the root route names no receiver")
	}
	if len(c.Matchers)+len(c.Match)+len(c.MatchRE) > 0 {
		wrong = append(wrong, "the root route has matchers; every alert enters there")
	}
	if c.Continue {
		wrong = append(wrong, "the root route has continue")
	}
	if len(c.MuteTimeIntervals)+len(c.ActiveTimeIntervals) > 0 {
		wrong = append(wrong, "the root route has time intervals; give them to a route below it")
	}
	return wrong
}

// Everybody is the tree of an installation that wrote none: every receiver is
// told of every incident that calls a person, and nobody of a warning.
func Everybody(receivers []string) Config {
	c := Config{}
	for _, name := range receivers {
		c.Routes = append(c.Routes, Config{
			Receiver: name, Continue: true, Matchers: []string{fmt.Sprintf("severity!~%q", "info|warning|none")},
		})
	}
	return c
}
