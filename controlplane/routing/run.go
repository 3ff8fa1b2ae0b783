package routing

import (
	"context"
	"fmt"
	"time"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/life"
)

const (
	// dueBatch is how many groups are looked at in one transaction.
	dueBatch = 128
	// lookEvery finds what is due without the store having changed.
	lookEvery = time.Second
	// lookPause is the least time between two looks: what is due at once is looked
	// at where it comes to be, not here, and when much changes it changes often.
	lookPause = 20 * time.Millisecond
	// retryAfter is the wait after an error of the store.
	retryAfter = time.Second
	// silencesFor is how long a silence that ended is kept.
	silencesFor = 5 * 24 * time.Hour
)

// Run looks at what is due until ctx ends. An error of the store is logged and
// tried again.
func (r *Router) Run(ctx context.Context) error {
	begun := false
	for ctx.Err() == nil {
		changed := r.deps.Store.Changed(store.TopicGroups)
		var wait time.Duration
		err := error(nil)
		if !begun {
			err = r.deps.Store.Update(ctx, func(tx *store.Tx) error { return r.begin(ctx, tx) })
			begun = err == nil
		}
		if err == nil {
			wait, err = r.due(ctx)
		}
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			r.deps.Log.Warn("alerts wait: the store does not answer; trying again", "error", err)
			changed, wait = nil, retryAfter
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-changed:
			life.Sleep(ctx, lookPause)
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

// begin brings what is in the store in line with the configuration: groups of
// routes that are no more are forgotten, open incidents enter the groups that
// they now belong to, and heartbeats start.
func (r *Router) begin(ctx context.Context, tx *store.Tx) error {
	groups, err := tx.AlertGroups()
	if err != nil {
		return err
	}
	for _, g := range groups {
		if _, known := r.plan.SendResolved[g.Receiver]; known && (g.Route == stormRoute || r.routeOf(g.Route) != nil) {
			continue
		}
		if err := tx.DeleteAlertGroup(g.ID); err != nil {
			return err
		}
	}
	if err := tx.DeleteInhibitor(""); err != nil {
		return err
	}
	open, err := tx.AllOpen(0)
	if err != nil {
		return err
	}
	for _, record := range open {
		labels, err := r.labels(tx, record.Incident)
		if err != nil {
			return err
		}
		if err := r.inhibits(tx, record.Incident, labels); err != nil {
			return err
		}
	}
	for _, record := range open {
		if isStorm(record.Incident) {
			continue
		}
		labels, err := r.labels(tx, record.Incident)
		if err != nil {
			return err
		}
		entered, err := r.enter(tx, record.Incident.GetIncidentId(), r.groupsFor(labels), nil)
		if err != nil {
			return err
		}
		for _, g := range entered {
			if err := r.changed(ctx, tx, g, record, r.deps.Clock()); err != nil {
				return err
			}
		}
	}
	return r.startHeartbeats(tx)
}

func (r *Router) startHeartbeats(tx *store.Tx) error {
	running, err := tx.TimersOf(heartbeatTimer, "")
	if err != nil {
		return err
	}
	for _, h := range r.plan.Heartbeats {
		if timerOf(running, h.Name) {
			continue
		}
		if err := tx.PutTimer(store.Timer{Kind: heartbeatTimer, Name: h.Name, Due: r.deps.Clock()}); err != nil {
			return err
		}
	}
	return tx.ForgetSilences(r.deps.Clock().Add(-silencesFor))
}

// due looks at all that is due and gives how long nothing else is.
func (r *Router) due(ctx context.Context) (time.Duration, error) {
	for {
		var next time.Time
		err := r.deps.Store.View(ctx, func(tx *store.Tx) (err error) { next, err = tx.NextDue(); return err })
		if err != nil {
			return 0, err
		}
		now := r.deps.Clock()
		if next.IsZero() || next.After(now) {
			if next.IsZero() {
				return lookEvery, nil
			}
			return min(next.Sub(now), lookEvery), nil
		}
		done := 0
		err = r.deps.Store.Update(ctx, func(tx *store.Tx) error {
			done, err = r.batch(ctx, tx, now)
			return err
		})
		if err != nil {
			return 0, err
		}
		if done == 0 {
			return lookEvery, nil // what is due is somebody else's
		}
	}
}

// batch looks at some of what is due and gives how much it was.
func (r *Router) batch(ctx context.Context, tx *store.Tx, now time.Time) (done int, err error) {
	groups, err := tx.DueGroups(now, dueBatch)
	if err != nil {
		return 0, err
	}
	for _, g := range groups {
		if err := r.look(ctx, tx, g, now); err != nil {
			return 0, fmt.Errorf("look at group %s: %w", g.ID, err)
		}
	}
	timers, err := tx.DueTimers(now, dueBatch)
	if err != nil {
		return 0, err
	}
	done = len(groups)
	for _, t := range timers {
		switch t.Kind {
		case escalationTimer:
			err = r.escalate(ctx, tx, t, now)
		case heartbeatTimer:
			err = r.beat(ctx, tx, t, now)
		case storyTimer:
			err = r.story(ctx, tx, t, now)
		default:
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("run %s %s: %w", t.Kind, t.Name, err)
		}
		done++
	}
	return done, nil
}
