package alerting

import (
	"context"
	"slices"
	"time"
)

// putOffHeld is how many tries that were put off are remembered by the time; what
// is beyond that is found by asking the queue now and then.
const putOffHeld = 1024

// agenda is when tries are due that were put off here, in order.
type agenda struct{ at []time.Time }

// add notes a time; the latest is forgotten where there are too many.
func (a *agenda) add(at time.Time) {
	i, noted := slices.BinarySearchFunc(a.at, at, time.Time.Compare)
	if noted {
		return
	}
	a.at = slices.Insert(a.at, i, at)
	a.at = a.at[:min(len(a.at), putOffHeld)]
}

// wait gives how long nothing is due, at most so long, and forgets what was.
func (a *agenda) wait(now time.Time, most time.Duration) time.Duration {
	for len(a.at) > 0 && !a.at[0].After(now) {
		a.at = a.at[1:]
	}
	if len(a.at) == 0 {
		return most
	}
	return min(most, a.at[0].Sub(now))
}

// putOff has the queue asked again at a time, if that is to come.
func (a *Alerting) putOff(at time.Time) {
	if !at.After(a.deps.Clock()) {
		return
	}
	select {
	case a.later <- at:
	default:
	}
}

// await returns when there may be something to take: the queue changed, a
// receiver has room again, a try that was put off is due, or it is time to look.
// It is false at the end of ctx.
func (a *Alerting) await(ctx context.Context, changed <-chan struct{}, due *agenda) bool {
	look := a.deps.Clock().Add(pollEvery)
	for {
		now := a.deps.Clock()
		timer := time.NewTimer(due.wait(now, max(0, look.Sub(now))))
		select {
		case <-ctx.Done():
		case <-changed:
		case <-a.room:
		case <-timer.C:
		case at := <-a.later:
			timer.Stop()
			due.add(at)
			continue
		}
		timer.Stop()
		return ctx.Err() == nil
	}
}
