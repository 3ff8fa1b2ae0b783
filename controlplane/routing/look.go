package routing

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/common/model"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/group"
	"github.com/vigil-ml/vigil/alerting/route"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/telemetry"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const (
	// alertsTold is how many alerts one notification has at most.
	alertsTold = 1000
	// recheck is how often a group is looked at of which something is kept quiet,
	// where its route has no interval.
	recheck = 5 * time.Second
	// never is when a group is due that nothing is expected of.
	never = 10 * 365 * 24 * time.Hour
)

// view is a group as it is now.
type view struct {
	members []group.Member
	told    []store.AlertMember
	records []store.IncidentRecord
	labels  []map[string]string
}

// view reads a group's members and what keeps them quiet.
func (r *Router) view(tx *store.Tx, g store.AlertGroup, now time.Time) (view, error) {
	var v view
	all, err := tx.AlertMembers(g.ID)
	if err != nil {
		return v, err
	}
	to := r.routeOf(g.Route)
	allMuted := to != nil && r.plan.Intervals.Muted(to, now)
	for _, m := range all {
		record, err := tx.IncidentRecord(m.IncidentID)
		if fault.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			return v, err
		}
		labels, err := r.labels(tx, record.Incident)
		if err != nil {
			return v, err
		}
		quiet := allMuted
		if !quiet {
			if quiet, err = r.quiet(tx, m.IncidentID, labels, now); err != nil {
				return v, err
			}
		}
		v.told, v.records, v.labels = append(v.told, m), append(v.records, record), append(v.labels, labels)
		v.members = append(v.members, group.Member{
			State: record.Incident.GetState(), Severity: int32(record.Incident.GetSeverity()),
			Told: m.Told, ToldSeverity: int32(m.ToldSeverity), Muted: quiet,
		})
	}
	return v, nil
}

// severity is that of the worst that is told.
func (v view) severity() commonv1.Severity {
	worst := int32(0)
	for _, m := range v.members {
		if !m.Muted {
			worst = max(worst, m.Severity)
		}
	}
	return commonv1.Severity(worst)
}

// look looks at a group: what is to be told goes into the outbox, what is over
// leaves the group, and what is left is due again later.
func (r *Router) look(ctx context.Context, tx *store.Tx, g store.AlertGroup, now time.Time) error {
	if g.Route == stormRoute {
		return r.lookAtStorm(ctx, tx, g, now)
	}
	to := r.routeOf(g.Route)
	if to == nil {
		return tx.DeleteAlertGroup(g.ID)
	}
	v, err := r.view(tx, g, now)
	if err != nil {
		return err
	}
	sendResolved := r.plan.SendResolved[g.Receiver]
	occasion := group.Decide(v.members, sendResolved, g.Told, to.Repeat, now)
	if occasion == alert.First && r.tides.high(g.Receiver, v.severity(), now) {
		if err := r.rollUp(tx, g, v, now); err != nil {
			return err
		}
		occasion = 0
	}
	if occasion != 0 {
		if occasion != alert.Over || sendResolved {
			if err := r.tell(ctx, tx, to, g, v, occasion, sendResolved, now); err != nil {
				return err
			}
		}
		g.Told = now
	}
	g.Looked = now
	left, quiet, err := r.settle(tx, g, v, occasion != 0)
	if err != nil {
		return err
	}
	if left == 0 {
		return tx.DeleteAlertGroup(g.ID)
	}
	g.Due = next(to, g, quiet, now)
	return tx.PutAlertGroup(g)
}

// settle notes what was told and has what is over leave. It gives how many
// members are left and whether any of them is kept quiet.
func (r *Router) settle(tx *store.Tx, g store.AlertGroup, v view, told bool) (left int, quiet bool, err error) {
	for n, m := range v.members {
		if m.State == resolved {
			if err := tx.LeaveGroup(g.ID, v.told[n].IncidentID); err != nil {
				return 0, false, err
			}
			continue
		}
		left++
		quiet = quiet || m.Muted
		if !told || m.Muted {
			continue
		}
		is := store.AlertMember{IncidentID: v.told[n].IncidentID, Told: m.State, ToldSeverity: commonv1.Severity(m.Severity)}
		if is == v.told[n] {
			continue
		}
		if err := tx.PutAlertMember(g.ID, is); err != nil {
			return 0, false, err
		}
	}
	return left, quiet, nil
}

// next is when a group is looked at again if nothing changes.
func next(to *route.Route, g store.AlertGroup, quiet bool, now time.Time) time.Time {
	due := now.Add(never)
	if to.Repeat > 0 && !g.Told.IsZero() {
		due = g.Told.Add(to.Repeat)
		if !to.Urgent && to.Interval > 0 { // at the first tick behind it
			ticks := (due.Sub(now) + to.Interval - 1) / to.Interval
			due = now.Add(max(ticks, 1) * to.Interval)
		}
		if !due.After(now) {
			due = now.Add(to.Repeat)
		}
	}
	if quiet {
		wait := to.Interval
		if to.Urgent {
			wait = recheck
		}
		if at := now.Add(wait); at.Before(due) {
			due = at
		}
	}
	return due
}

// tell puts what a group has to say into the outbox.
func (r *Router) tell(ctx context.Context, tx *store.Tx, to *route.Route, g store.AlertGroup, v view, why alert.Occasion, sendResolved bool, now time.Time) error {
	body := &controlv1.GroupNotification{Key: to.GroupKey(g.Labels), Labels: g.Labels, Occasion: int32(why)}
	if reason, ok := g.Labels[escalationLabel]; ok {
		body.Reason = reason
	}
	state, about := resolved, -1
	for n, m := range v.members {
		if m.Muted || (m.State == resolved && !sendResolved) {
			continue
		}
		if about < 0 || weighs(m) > weighs(v.members[about]) {
			about = n
		}
		if m.State == firing || (m.State == acknowledged && state == resolved) {
			state = m.State
		}
		body.Alerts = append(body.Alerts, snapshot(v.records[n], v.labels[n]))
	}
	if about < 0 {
		return nil
	}
	sortAlerts(body.Alerts)
	if more := len(body.Alerts) - alertsTold; more > 0 {
		body.Truncated, body.Alerts = int32(more), body.Alerts[:alertsTold]
	}
	if err := together(tx, g.Receiver, v, about, now); err != nil {
		return err
	}
	return tx.InsertNotification(store.Notification{
		IncidentID: v.told[about].IncidentID, Receiver: g.Receiver, State: state,
		Created: now, Traceparent: telemetry.Traceparent(ctx), Group: body,
	})
}

// together writes into the timelines of the other alerts of a notification that
// they are told with it.
func together(tx *store.Tx, receiver string, v view, about int, now time.Time) error {
	for n, m := range v.members {
		if n == about || m.Muted || m.State == m.Told {
			continue
		}
		err := note(tx, v.told[n].IncidentID, now, "notified", "%s is told that it is %s, together with %s.",
			receiver, alert.State(m.State), v.told[about].IncidentID)
		if err != nil {
			return err
		}
	}
	return nil
}

// weighs orders members: what fires before what is over, then by severity.
func weighs(m group.Member) int32 {
	if m.State == resolved {
		return m.Severity - 100
	}
	return m.Severity
}

// snapshot is an alert as it is told now.
func snapshot(record store.IncidentRecord, labels map[string]string) *controlv1.Alert {
	i := record.Incident
	a := &controlv1.Alert{
		IncidentId: i.GetIncidentId(), State: i.GetState(), Labels: labels, Starts: i.GetOpened(),
		Annotations: alert.Delivery{Incident: i, State: i.GetState()}.Annotations(), GeneratorUrl: i.GetGeneratorUrl(),
		Fingerprint: alert.Fingerprint(labels),
	}
	if i.GetState() == resolved {
		a.Ends = i.GetResolved()
	}
	if len(i.GetLabels()) > 0 {
		a.Annotations = i.GetAnnotations()
	}
	return a
}

// sortAlerts has alerts in Alertmanager's order: by job, by instance, then by
// all labels. Source: types.AlertSlice of Alertmanager.
func sortAlerts(alerts []*controlv1.Alert) {
	sets := map[*controlv1.Alert]model.LabelSet{}
	for _, a := range alerts {
		set := model.LabelSet{}
		for name, value := range a.GetLabels() {
			set[model.LabelName(name)] = model.LabelValue(value)
		}
		sets[a] = set
	}
	slices.SortStableFunc(alerts, func(a, b *controlv1.Alert) int {
		for _, name := range []string{"job", "instance"} {
			av, aok := a.GetLabels()[name]
			bv, bok := b.GetLabels()[name]
			switch {
			case aok != bok && aok:
				return -1
			case aok != bok:
				return 1
			case av != bv:
				return cmp.Compare(av, bv)
			}
		}
		switch {
		case sets[a].Before(sets[b]):
			return -1
		case sets[b].Before(sets[a]):
			return 1
		}
		return 0
	})
}

// note writes into an incident's timeline.
func note(tx *store.Tx, incidentID string, at time.Time, action, format string, args ...any) error {
	return tx.AddTimeline(incidentID, &controlv1.TimelineEntry{
		Time: timestamppb.New(at), Action: action, Text: fmt.Sprintf(format, args...),
	})
}
