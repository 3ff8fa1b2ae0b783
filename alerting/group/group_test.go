package group

import (
	"testing"
	"time"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/route"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func start() time.Time { return time.Date(2026, 3, 1, 3, 12, 0, 0, time.UTC) }

func TestDecide(t *testing.T) {
	const none = controlv1.IncidentState(0)
	m := func(state, told controlv1.IncidentState) Member {
		return Member{State: state, Told: told, Severity: 2, ToldSeverity: 2}
	}
	muted := func(m Member) Member { m.Muted = true; return m }
	worse := m(firing, firing)
	worse.Severity = 3
	quietWorse := m(acknowledged, none)
	quietWorse.Severity = 3
	for name, test := range map[string]struct {
		members  []Member
		resolved bool // the receiver hears of ends
		last     time.Duration
		want     alert.Occasion
	}{
		"new":                            {[]Member{m(firing, none)}, true, -1, alert.First},
		"another":                        {[]Member{m(firing, firing), m(firing, none)}, true, 0, alert.Update},
		"nothing new":                    {[]Member{m(firing, firing)}, true, 0, 0},
		"repeat":                         {[]Member{m(firing, firing)}, true, time.Hour, alert.Repeat},
		"taken is not repeated":          {[]Member{m(acknowledged, acknowledged)}, true, time.Hour, 0},
		"one taken of two":               {[]Member{m(acknowledged, acknowledged), m(firing, firing)}, true, time.Hour, alert.Repeat},
		"taken":                          {[]Member{m(acknowledged, firing)}, true, 0, alert.Update},
		"taken before it was told":       {[]Member{quietWorse}, true, -1, 0},
		"given back":                     {[]Member{m(firing, acknowledged)}, true, 0, alert.Update},
		"worse":                          {[]Member{worse}, true, 0, alert.Update},
		"over":                           {[]Member{m(resolved, firing)}, true, 0, alert.Over},
		"over, nobody hears":             {[]Member{m(resolved, firing)}, false, 0, alert.Over},
		"over before it was told":        {[]Member{m(resolved, none)}, true, -1, 0},
		"one of two over":                {[]Member{m(resolved, firing), m(firing, firing)}, true, 0, alert.Update},
		"one of two over, nobody hears":  {[]Member{m(resolved, firing), m(firing, firing)}, false, 0, 0},
		"came and went beside":           {[]Member{m(resolved, none), m(firing, firing)}, true, 0, alert.Update},
		"again":                          {[]Member{m(firing, resolved)}, true, 0, alert.Update},
		"silenced":                       {[]Member{muted(m(firing, none))}, true, -1, 0},
		"silenced repeat":                {[]Member{muted(m(firing, firing))}, true, time.Hour, 0},
		"silenced end":                   {[]Member{muted(m(resolved, firing))}, true, 0, 0},
		"over while another is silenced": {[]Member{m(resolved, firing), muted(m(firing, firing))}, true, 0, alert.Over},
		"nobody":                         {nil, true, -1, 0},
	} {
		last := time.Time{}
		if test.last >= 0 {
			last = start().Add(-test.last)
		}
		if got := Decide(test.members, test.resolved, last, time.Hour, start()); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

func TestDue(t *testing.T) {
	ticks := &route.Route{Wait: 2 * time.Second, Interval: 10 * time.Second}
	urgent := &route.Route{Interval: 10 * time.Second, Urgent: true}
	for name, test := range map[string]struct {
		route  *route.Route
		looked time.Duration // before now; less than 0 is never
		want   time.Duration
	}{
		"new":             {ticks, -1, 2 * time.Second},
		"new and at once": {urgent, -1, 0},
		"the next tick":   {ticks, 3 * time.Second, 7 * time.Second},
		"a later tick":    {ticks, 23 * time.Second, 7 * time.Second},
		"just looked":     {ticks, 0, 10 * time.Second},
		"rested":          {urgent, 23 * time.Second, 0},
		"not rested":      {urgent, 3 * time.Second, 7 * time.Second},
		"no interval":     {&route.Route{}, time.Second, 0},
	} {
		looked := time.Time{}
		if test.looked >= 0 {
			looked = start().Add(-test.looked)
		}
		if got := Due(test.route, looked, start()).Sub(start()); got != test.want {
			t.Errorf("%s: in %v, want %v", name, got, test.want)
		}
	}
}

func TestUrgent(t *testing.T) {
	for name, test := range map[string]struct {
		members []Member
		want    bool
	}{
		"all over":   {[]Member{{State: resolved, Told: firing}}, true},
		"one over":   {[]Member{{State: resolved, Told: firing}, {State: firing, Told: firing}}, false},
		"worse":      {[]Member{{State: firing, Told: firing, Severity: 3, ToldSeverity: 2}}, true},
		"taken":      {[]Member{{State: acknowledged, Told: firing}}, true},
		"another":    {[]Member{{State: firing, Told: firing}, {State: firing}}, false},
		"never told": {[]Member{{State: resolved}}, false},
	} {
		if got := Urgent(test.members); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
