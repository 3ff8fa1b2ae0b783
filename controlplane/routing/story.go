package routing

import (
	"context"
	"slices"
	"time"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/telemetry"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const (
	// storyTimer is the kind of the timer after which an incident's followers are
	// told what happened to it meanwhile.
	storyTimer = "story"
	// storyWait is for how long what happens is gathered before it is told.
	storyWait = 5 * time.Second
)

// Happened takes in that an incident's timeline has something new that changes
// nothing about who is told: a restart, another finding, a checkpoint. Receivers
// that follow incidents get it soon, together with what else happens until then.
func (r *Router) Happened(tx *store.Tx, incidentID string) error {
	if len(r.deps.Followers) == 0 {
		return nil
	}
	waiting, err := tx.TimersOf(storyTimer, incidentID)
	if err != nil || len(waiting) > 0 {
		return err
	}
	return tx.PutTimer(store.Timer{Kind: storyTimer, Target: incidentID, Due: r.deps.Clock().Add(storyWait)})
}

// story has the followers of an incident told what happened to it, if they were
// told of it and it is not over: its end tells the rest.
func (r *Router) story(ctx context.Context, tx *store.Tx, t store.Timer, now time.Time) error {
	if err := tx.DeleteTimer(t); err != nil {
		return err
	}
	record, err := tx.IncidentRecord(t.Target)
	if fault.Is(err, fault.NotFound) || (err == nil && record.Incident.GetState() == resolved) {
		return nil
	}
	if err != nil {
		return err
	}
	labels, err := r.labels(tx, record.Incident)
	if err != nil {
		return err
	}
	if quiet, err := r.quiet(tx, t.Target, labels, now); err != nil || quiet {
		return err
	}
	groups, err := tx.GroupsOf(t.Target)
	if err != nil {
		return err
	}
	for _, g := range groups {
		if g.Told.IsZero() || g.Route == stormRoute || !slices.Contains(r.deps.Followers, g.Receiver) {
			continue
		}
		// The group may have been told of others alone so far.
		if m, err := tx.AlertMember(g.ID, t.Target); err != nil {
			return err
		} else if m.Told == 0 || m.Told == resolved {
			continue
		}
		if err := r.tellStory(ctx, tx, g, record, labels, now); err != nil {
			return err
		}
	}
	return nil
}

func (r *Router) tellStory(ctx context.Context, tx *store.Tx, g store.AlertGroup, record store.IncidentRecord, labels map[string]string, now time.Time) error {
	to := r.routeOf(g.Route)
	if to == nil || r.plan.Intervals.Muted(to, now) {
		return nil
	}
	return tx.InsertNotification(store.Notification{
		IncidentID: record.Incident.GetIncidentId(), Receiver: g.Receiver, Created: now, Traceparent: telemetry.Traceparent(ctx),
		Group: &controlv1.GroupNotification{
			Key: to.GroupKey(g.Labels), Labels: g.Labels, Occasion: int32(alert.Story), Reason: g.Labels[escalationLabel],
			Alerts: []*controlv1.Alert{snapshot(record, labels)},
		},
	})
}
