package route

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/alertmanager/timeinterval"
	"go.yaml.in/yaml/v3"
)

// IntervalConfig is a named set of times, in Alertmanager's words:
//
//   - name: nights
//     time_intervals: [{times: [{start_time: "22:00", end_time: "24:00"}], location: Europe/Berlin}]
type IntervalConfig struct {
	Name string `yaml:"name"`
	// TimeIntervals is the times: weekdays, times, days_of_month, months, years,
	// location.
	TimeIntervals any `yaml:"time_intervals"`
}

// Check reports times that are none.
func (c IntervalConfig) Check(report func(key, format string, args ...any)) {
	if c.Name == "" {
		report("name", "is missing")
	}
	if _, err := c.times(); err != nil {
		report("time_intervals", "%v", err)
	}
}

func (c IntervalConfig) times() ([]timeinterval.TimeInterval, error) {
	text, err := yaml.Marshal(c.TimeIntervals)
	if err != nil {
		return nil, err
	}
	var times []timeinterval.TimeInterval
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&times); err != nil {
		return nil, err
	}
	return times, nil
}

// Intervals is the named times of an installation.
type Intervals map[string][]timeinterval.TimeInterval

// NewIntervals reads the named times.
func NewIntervals(configs []IntervalConfig) (Intervals, error) {
	all := Intervals{}
	for _, c := range configs {
		times, err := c.times()
		if err != nil {
			return nil, fmt.Errorf("read time interval %s: %w", c.Name, err)
		}
		if all[c.Name] != nil {
			return nil, fmt.Errorf("read time interval %s: the name is given twice", c.Name)
		}
		all[c.Name] = times
	}
	return all, nil
}

// Muted tells whether a route tells nothing at a time.
func (in Intervals) Muted(r *Route, now time.Time) bool { return len(in.MutedBy(r, now)) > 0 }

// MutedBy names the intervals for which a route tells nothing at a time: all its
// active ones where the time is in none of them, else those of its mute ones that
// the time is in. None: it tells.
func (in Intervals) MutedBy(r *Route, now time.Time) []string {
	covers := func(name string) bool {
		return slices.ContainsFunc(in[name], func(t timeinterval.TimeInterval) bool { return t.ContainsTime(now.UTC()) })
	}
	if len(r.Active) > 0 && !slices.ContainsFunc(r.Active, covers) {
		return r.Active
	}
	var names []string
	for _, name := range r.Mute {
		if covers(name) {
			names = append(names, name)
		}
	}
	return names
}
