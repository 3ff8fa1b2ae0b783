package routing

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/route"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// The kinds of timers that are the router's.
const (
	escalationTimer = "escalation"
	heartbeatTimer  = "heartbeat"
	// escalationLabel is the group label that names an escalation's step.
	escalationLabel = "escalation"
)

// escalates starts the timers of an incident that nobody has acknowledged, and
// ends those of one that somebody has or that is over.
func (r *Router) escalates(tx *store.Tx, i *controlv1.Incident, labels map[string]string, now time.Time) error {
	if len(r.plan.Escalations) == 0 {
		return nil
	}
	running, err := tx.TimersOf(escalationTimer, i.GetIncidentId())
	if err != nil {
		return err
	}
	if i.GetState() != firing {
		for _, t := range running {
			if err := tx.DeleteTimer(t); err != nil {
				return err
			}
		}
		return nil
	}
	for _, e := range r.plan.Escalations {
		if !e.Matchers.Match(labels) || timerOf(running, e.Name) {
			continue
		}
		timer := store.Timer{Kind: escalationTimer, Name: e.Name, Target: i.GetIncidentId(), Due: now.Add(e.Steps[0].After)}
		if err := tx.PutTimer(timer); err != nil {
			return err
		}
	}
	return nil
}

func timerOf(running []store.Timer, name string) bool {
	for _, t := range running {
		if t.Name == name {
			return true
		}
	}
	return false
}

// escalate does one step: its receivers are told, through groups of their own,
// so that they also hear of the end. The last step leaves a timer that is not
// due, by which the escalation is known to have been gone through.
func (r *Router) escalate(ctx context.Context, tx *store.Tx, t store.Timer, now time.Time) error {
	e := r.escalation(t.Name)
	record, err := tx.IncidentRecord(t.Target)
	if fault.Is(err, fault.NotFound) || (err == nil && (e == nil || t.Step >= int64(len(e.Steps)) || record.Incident.GetState() != firing)) {
		return tx.DeleteTimer(t)
	}
	if err != nil {
		return err
	}
	labels, err := r.labels(tx, record.Incident)
	if err != nil {
		return err
	}
	if quiet, err := r.quiet(tx, t.Target, labels, now); err != nil || quiet {
		t.Due = now.Add(time.Minute) // what is silenced is not escalated
		if err != nil {
			return err
		}
		return tx.PutTimer(t)
	}
	step := e.Steps[t.Step]
	name := fmt.Sprintf("%s, step %d", e.Name, t.Step+1)
	err = note(tx, t.Target, now, "escalated", "Nobody acknowledged it within %v: %s is told (%s).",
		step.After, strings.Join(step.Receivers, " and "), name)
	if err != nil {
		return err
	}
	for _, receiver := range step.Receivers {
		g := store.AlertGroup{
			Route: escalationPrefix + name, Receiver: receiver,
			Labels: map[string]string{alert.LabelIncident: t.Target, escalationLabel: name},
		}
		g.ID = groupID(g)
		if _, err := tx.JoinGroup(g.ID, t.Target); err != nil {
			return err
		}
		if err := r.look(ctx, tx, g, now); err != nil {
			return err
		}
	}
	t.Step++
	t.Due = now.Add(never)
	if t.Step < int64(len(e.Steps)) {
		t.Due = now.Add(e.Steps[t.Step].After)
	}
	return tx.PutTimer(t)
}

func (r *Router) escalation(name string) *route.Escalation {
	for n := range r.plan.Escalations {
		if r.plan.Escalations[n].Name == name {
			return &r.plan.Escalations[n]
		}
	}
	return nil
}

// beat tells a receiver that Vigil is alive, and is due again later. One beat
// waits at most: a receiver that was away gets the newest, not all of them.
func (r *Router) beat(ctx context.Context, tx *store.Tx, t store.Timer, now time.Time) error {
	for _, h := range r.plan.Heartbeats {
		if h.Name != t.Name {
			continue
		}
		i := heartbeat(h, now)
		if err := tx.PutIncident(store.IncidentRecord{Incident: i, Fingerprint: "heartbeat/" + h.Name, Findings: 1, Occurrences: 1}); err != nil {
			return err
		}
		t.Due = now.Add(h.Interval)
		waits, err := tx.ForgetNotifications(i.GetIncidentId())
		if err != nil || waits {
			return errors.Join(err, tx.PutTimer(t))
		}
		labels := i.GetLabels()
		beats := snapshot(store.IncidentRecord{Incident: i}, labels)
		beats.State, beats.Ends = firing, nil
		body := &controlv1.GroupNotification{
			Key: "heartbeat:" + route.LabelText(labels), Labels: labels, Occasion: int32(alert.Repeat), Reason: "heartbeat",
			Alerts: []*controlv1.Alert{beats},
		}
		err = tx.InsertNotification(store.Notification{
			IncidentID: i.GetIncidentId(), Receiver: h.Receiver, State: firing, Created: now, Group: body,
		})
		if err != nil {
			return err
		}
		return tx.PutTimer(t)
	}
	return tx.DeleteTimer(t)
}

// heartbeat is the alert that always fires. It is kept as an incident that is
// over, so that it is in nobody's list of what is wrong.
func heartbeat(h route.HeartbeatConfig, now time.Time) *controlv1.Incident {
	return &controlv1.Incident{
		IncidentId: "heartbeat-" + h.Name, Kind: "heartbeat", State: resolved, Severity: commonv1.Severity_SEVERITY_INFO,
		Summary: "Vigil is alive. This alert always fires: it is when it stays away that something is wrong.",
		Opened:  timestamppb.New(now), Resolved: timestamppb.New(now),
		Labels:      map[string]string{alert.LabelName: "Watchdog", "heartbeat": h.Name, alert.LabelSeverity: "none"},
		Annotations: map[string]string{"summary": "Vigil is alive."},
	}
}
