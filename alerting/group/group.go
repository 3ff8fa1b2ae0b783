// Package group decides when a group of alerts is told, and whether there is
// anything to tell, as Alertmanager's aggregation groups and notification log
// do. It is pure: state and time are given.
package group

import (
	"time"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/route"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const (
	firing       = controlv1.IncidentState_INCIDENT_STATE_FIRING
	acknowledged = controlv1.IncidentState_INCIDENT_STATE_ACKNOWLEDGED
	resolved     = controlv1.IncidentState_INCIDENT_STATE_RESOLVED
)

// Member is an alert of a group: what it is, and what was told of it.
type Member struct {
	State    controlv1.IncidentState
	Severity int32
	Muted    bool // a silence or an inhibition keeps it quiet

	Told         controlv1.IncidentState // 0 while nothing was
	ToldSeverity int32
}

// Decide gives whether a group is told now, and why; 0 when it is not. sendResolved
// is whether the receiver wants to hear of what is over.
//
// The rules are those of Alertmanager's notification log: it is told when an
// alert fires that was not told of; when nothing fires any more and something
// did; when an alert is over and nobody was told so; or when the last word is
// older than the repeat interval. An acknowledgement and a worsening are told
// too, and what is acknowledged is not repeated.
func Decide(members []Member, sendResolved bool, last time.Time, repeat time.Duration, now time.Time) alert.Occasion {
	var fires, told, fresh, over, ended, worse, taken bool
	allTaken := true
	for _, m := range members {
		told = told || m.Told == firing || m.Told == acknowledged
		if m.Muted {
			continue
		}
		if m.State == resolved {
			over = over || m.Told == firing || m.Told == acknowledged
			ended = ended || m.Told != resolved
			continue
		}
		fires = true
		fresh = fresh || m.Told == resolved || (m.Told == 0 && m.State == firing)
		worse = worse || (m.Told != 0 && m.Severity > m.ToldSeverity)
		taken = taken || (m.Told != 0 && (m.State == acknowledged) != (m.Told == acknowledged))
		allTaken = allTaken && m.State == acknowledged
	}
	switch {
	case fires && fresh && !told && last.IsZero():
		return alert.First
	case fires && (fresh || worse || taken):
		return alert.Update
	case fires && ended && sendResolved:
		return alert.Update
	case !fires && over:
		return alert.Over
	case fires && !allTaken && repeat > 0 && !last.IsZero() && !now.Before(last.Add(repeat)):
		return alert.Repeat
	}
	return 0
}

// Urgent tells whether a change of the group is one that a route without an
// interval of its own tells at once: something worse, taken, or all over.
func Urgent(members []Member) bool {
	fires, told := false, false
	for _, m := range members {
		fires = fires || m.State != resolved
		told = told || m.Told == firing || m.Told == acknowledged
		if m.Told != 0 && m.State != resolved && (m.Severity > m.ToldSeverity || m.State != m.Told) {
			return true
		}
	}
	return told && !fires
}

// Due gives when a change of a group is told that was looked at last at a
// time: at the next of its ticks, which come every interval.
func Due(r *route.Route, looked time.Time, now time.Time) time.Time {
	if looked.IsZero() {
		return now.Add(r.Wait)
	}
	if r.Interval <= 0 || !now.Before(looked.Add(r.Interval)) && r.Urgent {
		return now
	}
	ticks := (now.Sub(looked) + r.Interval - 1) / r.Interval
	return looked.Add(max(ticks, 1) * r.Interval)
}
