package alerting

import (
	"context"
	"time"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/internal/life"
)

// How outcomes are written down.
const (
	// outcomesHeld is how many wait to be written; lanes wait beyond that.
	outcomesHeld = 1024
	// outcomesAtOnce is how many share one transaction, and so one sync.
	outcomesAtOnce = 256
	// recordTimeout bounds the writing down of outcomes, also when the program is
	// stopping.
	recordTimeout = 5 * time.Second
)

// resultOf is a result as the metric has it.
func resultOf(r alert.Result) string {
	return map[alert.Result]string{
		alert.Delivered: resultDelivered, alert.Retry: resultRetried, alert.PutBack: resultDeferred, alert.Failed: resultFailed,
	}[r]
}

// putBack returns a delivery untried.
func (a *Alerting) putBack(c *chain, d alert.Delivery, notBefore time.Time, cause, standIn string) {
	a.settle(c, d, alert.Outcome{
		ID: d.ID, Result: alert.PutBack, At: a.deps.Clock(), NotBefore: notBefore, Cause: cause, StandIn: standIn,
	})
}

// settle counts an outcome and hands it to the recorder.
func (a *Alerting) settle(c *chain, d alert.Delivery, o alert.Outcome) {
	a.metrics.notifications.WithLabelValues(d.Receiver, resultOf(o.Result)).Inc()
	switch o.Result {
	case alert.Retry:
		a.deps.Log.Warn("a notification will be tried again", "receiver", c.name,
			"incident", d.Incident.GetIncidentId(), "tries", d.Tries+1, "wait", o.NotBefore.Sub(o.At), "error", o.Cause)
	case alert.Failed:
		a.deps.Log.Error("a notification is given up", "receiver", d.Receiver,
			"incident", d.Incident.GetIncidentId(), "stand_in", o.StandIn, "error", o.Cause)
	}
	a.outcomes <- o
	a.putOff(o.NotBefore)
}

// record writes outcomes down, those that have gathered meanwhile together:
// one at a time when little happens, and many for one sync when much does. It
// ends when ctx has, after the last one.
func (a *Alerting) record(ctx context.Context) error {
	for {
		select {
		case o := <-a.outcomes:
			a.write(ctx, a.gather(o))
		case <-ctx.Done():
			for len(a.outcomes) > 0 {
				a.write(ctx, a.gather(<-a.outcomes))
			}
			return nil
		}
	}
}

func (a *Alerting) gather(first alert.Outcome) []alert.Outcome {
	batch := []alert.Outcome{first}
	for len(batch) < outcomesAtOnce {
		select {
		case o := <-a.outcomes:
			batch = append(batch, o)
		default:
			return batch
		}
	}
	return batch
}

// write outlives ctx: a delivery that arrived while the program was stopping
// did arrive. A queue that is away for a moment is asked again; what then
// cannot be written down is sent again when its lease has run out.
func (a *Alerting) write(ctx context.Context, batch []alert.Outcome) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	for {
		err := a.deps.Queue.Settle(ctx, batch...)
		if err == nil {
			return
		}
		if !life.Sleep(ctx, recordTimeout/10) {
			a.deps.Log.Warn("notifications will be sent again: their outcome could not be recorded",
				"notifications", len(batch), "first", batch[0].ID, "error", err)
			return
		}
	}
}
