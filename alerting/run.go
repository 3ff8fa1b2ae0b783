package alerting

import (
	"context"
	"fmt"
	"time"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/internal/life"
)

// How deliveries are taken from the queue.
const (
	// leaseFor is longer than any try, with room to record how it went.
	leaseFor = 30 * time.Second
	// leaseBatch is how many are taken at once.
	leaseBatch = 64
	// pollEvery finds what is due without the queue having changed: what a process
	// that died had leased, and what another put off.
	pollEvery = 500 * time.Millisecond
)

// Run delivers until ctx ends, and then puts back what was not delivered. A
// queue that does not answer is asked again, and never an error. It is called
// once.
func (a *Alerting) Run(ctx context.Context) error {
	// The recorder ends last: it writes down what the lanes leave.
	recorder := life.NewGroup(context.WithoutCancel(ctx))
	recorder.Go("notification outcomes", a.record)
	tasks := []life.Task{
		{Name: "alerting queue", Run: a.take},
		{Name: "receivers' health", Run: a.watchHealth},
	}
	for _, name := range a.names {
		tasks = append(tasks, a.tasksOf(a.receivers[name])...)
	}
	err := life.All(ctx, tasks...)
	for _, name := range a.names {
		a.drain(a.receivers[name])
	}
	recorder.Stop()
	if failed := recorder.Wait(); err == nil {
		err = failed
	}
	return err
}

// tasksOf is what runs for one receiver: its lanes and, where it has one, the
// notifier's own task.
func (a *Alerting) tasksOf(c *chain) []life.Task {
	var tasks []life.Task
	for i := range workers {
		tasks = append(tasks, life.Task{
			Name: fmt.Sprintf("receiver %s lane %d", c.name, i),
			Run:  func(ctx context.Context) error { return a.serve(ctx, c) },
		})
	}
	if runner, ok := c.notifier.(notify.Runner); ok {
		tasks = append(tasks, life.Task{Name: "receiver " + c.name, Run: runner.Run})
	}
	return tasks
}

// take hands due deliveries to their receivers, at once when the queue changes
// or a receiver has room again.
func (a *Alerting) take(ctx context.Context) error {
	away, due := false, &agenda{}
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
		if !a.await(ctx, changed, due) {
			return nil
		}
	}
}

func (a *Alerting) takeDue(ctx context.Context) error {
	for {
		taken := a.deps.Clock()
		due, err := a.deps.Queue.Lease(ctx, leaseBatch, leaseFor, a.unavailable(taken)...)
		if err != nil {
			return err
		}
		for _, delivery := range due {
			a.hand(job{Delivery: delivery, leaseEnds: taken.Add(leaseFor)})
		}
		if len(due) < leaseBatch {
			return nil
		}
	}
}

// unavailable names the receivers whose deliveries stay in the queue for now.
// So one that is slow or broken costs the others nothing.
func (a *Alerting) unavailable(now time.Time) []string {
	var names []string
	for _, name := range a.names {
		if a.receivers[name].away(now) {
			names = append(names, name)
		}
	}
	return names
}

// hand gives a delivery to its receiver's lanes, which have room for as many as
// one lease gives.
func (a *Alerting) hand(j job) {
	c, ok := a.receivers[j.Receiver]
	if !ok {
		gone := newChain(receiver{name: j.Receiver}, a.deps.Clock)
		a.settle(gone, j.Delivery, alert.Outcome{
			ID: j.ID, Result: alert.Failed, At: a.deps.Clock(),
			Cause: fmt.Sprintf("receiver %q is not configured any more", j.Receiver),
		})
		return
	}
	select {
	case c.jobs <- j:
	default:
		a.putBack(c, j.Delivery, a.deps.Clock(), "its lanes are full", "")
	}
}

// serve is one lane of a receiver.
func (a *Alerting) serve(ctx context.Context, c *chain) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case j := <-c.jobs:
			if ctx.Err() != nil { // both were ready
				a.returnUntried(c, j)
				return nil
			}
			a.deliver(ctx, c, j)
			if c.hasRoom() {
				select {
				case a.room <- struct{}{}:
				default:
				}
			}
		}
	}
}

// drain returns what a receiver's lanes did not come to, so that it is due at
// once after a restart.
func (a *Alerting) drain(c *chain) {
	for {
		select {
		case j := <-c.jobs:
			a.returnUntried(c, j)
		default:
			return
		}
	}
}

func (a *Alerting) returnUntried(c *chain, j job) {
	a.putBack(c, j.Delivery, a.deps.Clock(), "the control plane stopped before it was tried", "")
}
