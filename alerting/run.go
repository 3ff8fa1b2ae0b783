package alerting

import (
	"context"
	"fmt"
	"time"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/internal/life"
)

// How deliveries are taken from the queue.
const (
	// leaseFor is longer than any try, with room to record how it went.
	leaseFor = 30 * time.Second
	// leaseBatch is how many are taken at once.
	leaseBatch = 64
	// pollEvery finds what is due without the queue having changed: retries, and
	// what a process that died had leased.
	pollEvery = 500 * time.Millisecond
	// recordTimeout bounds the writing down of how a try went, also when the
	// program is stopping.
	recordTimeout = 5 * time.Second
)

// Run delivers until ctx ends, and then puts back what was not delivered. A
// queue that does not answer is asked again, and never an error.
func (a *Alerting) Run(ctx context.Context) error {
	tasks := []life.Task{{Name: "alerting queue", Run: a.take}}
	for _, name := range a.names {
		c := a.receivers[name]
		for i := range workers {
			tasks = append(tasks, life.Task{
				Name: fmt.Sprintf("receiver %s lane %d", name, i),
				Run:  func(ctx context.Context) error { return a.serve(ctx, c) },
			})
		}
	}
	err := life.All(ctx, tasks...)
	for _, name := range a.names {
		a.putBack(ctx, a.receivers[name])
	}
	return err
}

// take hands due deliveries to their receivers, at once when the queue changes.
func (a *Alerting) take(ctx context.Context) error {
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	away := false
	for {
		// The channel is taken before the queue is read: a change between the
		// two is not missed.
		changed := a.deps.Queue.Changed()
		err := a.takeDue(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !away:
			a.deps.Log.Warn("notifications wait: the queue does not answer", "error", err)
		case err == nil && away:
			a.deps.Log.Info("the notification queue answers again")
		}
		if away = err != nil; away {
			changed = nil // it may change faster than it can be asked
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-poll.C:
		}
	}
}

func (a *Alerting) takeDue(ctx context.Context) error {
	for {
		taken := a.deps.Clock()
		due, err := a.deps.Queue.Lease(ctx, leaseBatch, leaseFor)
		if err != nil {
			return err
		}
		for _, delivery := range due {
			a.hand(ctx, job{Delivery: delivery, leaseEnds: taken.Add(leaseFor)})
		}
		if len(due) < leaseBatch {
			return nil
		}
	}
}

// hand gives a delivery to its receiver's lanes. When those are full it is left
// to its lease: it comes again when that has run out, and meanwhile the other
// receivers get theirs.
func (a *Alerting) hand(ctx context.Context, j job) {
	c, ok := a.receivers[j.Receiver]
	if !ok {
		a.fail(ctx, j.Delivery, fmt.Sprintf("receiver %q is not configured any more", j.Receiver))
		return
	}
	if !c.hold(j) {
		return
	}
	select {
	case c.jobs <- j.ID:
	default:
		c.take(j.ID)
		a.metrics.notifications.WithLabelValues(c.name, resultDeferred).Inc()
	}
}

// serve is one lane of a receiver.
func (a *Alerting) serve(ctx context.Context, c *chain) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case id := <-c.jobs:
			if ctx.Err() != nil { // both were ready: it is put back by Run
				a.returnUntried(ctx, c, id)
				return nil
			}
			a.deliver(ctx, c, id)
		}
	}
}

// putBack returns what a receiver's lanes did not come to, so that it is due
// at once after a restart.
func (a *Alerting) putBack(ctx context.Context, c *chain) {
	for {
		select {
		case id := <-c.jobs:
			a.returnUntried(ctx, c, id)
		default:
			return
		}
	}
}

func (a *Alerting) returnUntried(ctx context.Context, c *chain, id string) {
	a.again(ctx, c.take(id).Delivery, a.deps.Clock(), resultDeferred, "the control plane stopped before it was tried")
}

// record bounds the writing down of how a try went. It outlives ctx: a
// delivery that arrived while the program was stopping did arrive.
func (a *Alerting) record(ctx context.Context, d alert.Delivery, write func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	if err := write(ctx); err != nil {
		a.deps.Log.Warn("a notification will be sent again: its outcome could not be recorded",
			"receiver", d.Receiver, "incident", d.Incident.GetIncidentId(), "error", err)
	}
}
