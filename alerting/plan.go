package alerting

import (
	"fmt"

	"github.com/vigil-ml/vigil/alerting/route"
	"github.com/vigil-ml/vigil/internal/fault"
)

// Plan reads who is told of what, over receivers with some names. It fails with
// [fault.Invalid] for names that nothing has.
func (c Config) Plan(receivers []string) (*route.Plan, error) {
	known := map[string]bool{}
	for _, name := range receivers {
		known[name] = true
	}
	for _, name := range c.NotResolved {
		if !known[name] {
			return nil, fault.New(fault.Invalid, "alerting.not_resolved: there is no receiver %q", name)
		}
		known[name] = false
	}
	plan, err := route.NewPlan(route.Settings{
		Route: c.Route, Inhibit: c.InhibitRules, Intervals: c.TimeIntervals, Escalations: c.Escalations,
		Heartbeats: c.Heartbeats, Storm: c.Storm, Receivers: known, Order: receivers,
	})
	if err != nil {
		return nil, fault.Mark(fault.Invalid, fmt.Errorf("alerting: %w", err))
	}
	return plan, nil
}
