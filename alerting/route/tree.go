package route

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/match"
)

// Nobody is the receiver of a route whose alerts are told to nobody.
const Nobody = "nobody"

const (
	everyLabel = "..."
	// coalesce is between two notifications of a group that are not urgent, where
	// no group_interval is given.
	coalesce = 30 * time.Second
	// repeat is after what time a group is told again, where nothing is given.
	repeat = 4 * time.Hour
)

// Route is a node of the tree with all that it has from above.
type Route struct {
	// Key is Alertmanager's: the matchers from the root down.
	Key string
	// ID is the key, made unique among nodes of the same key.
	ID string
	// Receivers is who is told; none means nobody.
	Receivers []string
	// Matchers, of this node alone.
	Matchers match.Matchers
	// Wait, Interval and Repeat are the group's times; see [Config].
	Wait, Interval, Repeat time.Duration
	// Urgent has what ends or worsens told at once, whatever the interval.
	Urgent bool
	// Mute and Active name time intervals.
	Mute, Active []string

	groupBy  []string
	goesOn   bool
	children []*Route
}

// Tree is a routing tree.
type Tree struct {
	root *Route
	byID map[string]*Route
}

// New builds a tree. It fails as [Config.Check] reports.
func New(config Config) (*Tree, error) {
	t := &Tree{byID: map[string]*Route{}}
	above := &Route{groupBy: []string{"incident"}, Repeat: repeat, Interval: coalesce, Urgent: true}
	root, err := t.build(config, above, "")
	if err != nil {
		return nil, fmt.Errorf("build routing tree: %w", err)
	}
	t.root = root
	return t, nil
}

func (t *Tree) build(c Config, above *Route, place string) (*Route, error) {
	matchers, err := c.matchers()
	if err != nil {
		return nil, err
	}
	r := &Route{
		Key: matchers.String(), Matchers: matchers, goesOn: c.Continue, Receivers: c.Receivers,
		groupBy: c.GroupBy, Mute: c.MuteTimeIntervals, Active: c.ActiveTimeIntervals,
		Wait: above.Wait, Interval: above.Interval, Repeat: above.Repeat, Urgent: above.Urgent,
	}
	if place != "" {
		r.Key = above.Key + "/" + r.Key
	}
	r.ID = r.Key
	for n := 1; t.byID[r.ID] != nil; n++ {
		r.ID = r.Key + "#" + strconv.Itoa(n)
	}
	t.byID[r.ID] = r
	switch {
	case c.Receiver == Nobody:
		r.Receivers = []string{}
	case c.Receiver != "":
		r.Receivers = []string{c.Receiver}
	case len(r.Receivers) == 0:
		r.Receivers = above.Receivers
	}
	if c.GroupBy == nil {
		r.groupBy = above.groupBy
	}
	if c.GroupWait != nil {
		r.Wait = *c.GroupWait
	}
	if c.GroupInterval != nil {
		r.Interval, r.Urgent = *c.GroupInterval, false
	}
	if c.RepeatInterval != nil {
		r.Repeat = *c.RepeatInterval
	}
	for i, below := range c.Routes {
		child, err := t.build(below, r, place+"/"+strconv.Itoa(i))
		if err != nil {
			return nil, err
		}
		r.children = append(r.children, child)
	}
	return r, nil
}

// ByID gives a route by its id; nil when there is none.
func (t *Tree) ByID(id string) *Route { return t.byID[id] }

// Match gives the routes that have an alert, in order.
func (t *Tree) Match(labels map[string]string) []*Route { return t.root.match(labels) }

func (r *Route) match(labels map[string]string) []*Route {
	if !r.Matchers.Match(labels) {
		return nil
	}
	var all []*Route
	for _, child := range r.children {
		below := child.match(labels)
		all = append(all, below...)
		if len(below) > 0 && !child.goesOn {
			break
		}
	}
	if len(all) == 0 {
		all = append(all, r)
	}
	return all
}

// GroupLabels gives the labels of an alert by which the route groups it.
func (r *Route) GroupLabels(labels map[string]string) map[string]string {
	if slices.Contains(r.groupBy, everyLabel) {
		return maps.Clone(labels)
	}
	group := map[string]string{}
	for _, name := range r.groupBy {
		if value, ok := labels[name]; ok {
			group[name] = value
		}
	}
	if slices.Equal(r.groupBy, []string{"incident"}) && len(group) == 0 {
		return maps.Clone(labels) // an external alert is an incident of its own
	}
	return group
}

// GroupKey is a group's key as Alertmanager has it.
func (r *Route) GroupKey(group map[string]string) string { return r.Key + ":" + LabelText(group) }

// LabelText is labels as Alertmanager writes them: {a="b", c="d"}.
func LabelText(labels map[string]string) string {
	text := []byte{'{'}
	for n, name := range alert.Names(labels) {
		if n > 0 {
			text = append(text, ", "...)
		}
		text = append(append(text, name...), '=')
		text = strconv.AppendQuote(text, labels[name])
	}
	return string(append(text, '}'))
}
