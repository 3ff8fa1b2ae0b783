package alerting

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/telemetry"
)

// The wait before another try: from firstWait on, doubled each time, up to
// maxWait. A receiver that asks for a wait gets it, up to maxThrottle. Where
// the provider's limit is reached a lane waits up to maxQueue itself.
const (
	firstWait   = time.Second
	maxWait     = time.Minute
	maxThrottle = time.Hour
	maxQueue    = 5 * time.Second
)

// errStopped is a try that was cut short by the end of the program.
var errStopped = errors.New("the control plane stopped during the try")

// deliver makes one try, if the receiver is to be tried now, and says how it
// went.
func (a *Alerting) deliver(ctx context.Context, c *chain, j job) {
	now := a.deps.Clock()
	if until, paused := c.paused(now); paused {
		a.putBack(c, j.Delivery, until, "the receiver asked to be left alone for a while", "")
		return
	}
	if now.Add(maxQueue + a.config.TryTimeout).After(j.leaseEnds) {
		if now.Before(j.leaseEnds) { // later, someone else may have it
			a.putBack(c, j.Delivery, now, "it waited for too long", "")
		}
		return
	}
	if wait := a.limit(ctx, c, now); wait > 0 {
		a.putBack(c, j.Delivery, now.Add(wait), "the receiver's limit is reached", "")
		return
	}
	done, err := c.breaker.Allow()
	if err != nil {
		until, open := c.brokenUntil(now)
		if !open {
			until = now.Add(firstWait) // another lane is trying whether it works again
		}
		a.putBack(c, j.Delivery, until, "the receiver fails", a.standIn(c, j.Delivery))
		return
	}
	err = a.try(ctx, c, j.Delivery)
	if err != nil && ctx.Err() != nil {
		err = errStopped
	}
	done(err)
	a.outcome(c, j.Delivery, err)
}

// limit waits for the provider's token; it gives how long the delivery has to
// wait in the queue when that is too long to wait for here.
func (a *Alerting) limit(ctx context.Context, c *chain, now time.Time) time.Duration {
	token := c.limiter.ReserveN(now, 1)
	wait := token.DelayFrom(now)
	if wait > maxQueue {
		token.CancelAt(now)
		return wait
	}
	if wait > 0 {
		life.Sleep(ctx, wait)
	}
	return 0
}

// outcome decides what a try's answer means.
func (a *Alerting) outcome(c *chain, d alert.Delivery, err error) {
	now := a.deps.Clock()
	if errors.Is(err, errStopped) {
		a.putBack(c, d, now, err.Error(), "")
		return
	}
	c.judge(err, now)
	a.wakeHealth()
	wait, throttled := notify.ThrottledFor(err)
	if throttled {
		wait = min(wait, maxThrottle)
		c.pause(now.Add(wait))
	} else {
		wait = backoff(d.Tries, rand.Float64())
	}
	o := alert.Outcome{ID: d.ID, At: now}
	switch {
	case err == nil:
		metric.ObserveTraced(a.metrics.seconds.WithLabelValues(d.Receiver), now.Sub(d.Created).Seconds(), d.Traceparent)
		o.Result = alert.Delivered
	case notify.IsPermanent(err):
		o.Result, o.Cause, o.StandIn = alert.Failed, err.Error(), a.standIn(c, d)
	case now.Sub(d.TrySince()) >= a.config.MaxAge:
		o.Result, o.StandIn = alert.Failed, a.standIn(c, d)
		o.Cause = fmt.Sprintf("given up after %v: %v", a.config.MaxAge, err)
	default:
		o.Result, o.NotBefore, o.Cause = alert.Retry, now.Add(wait), err.Error()
		if until, open := c.brokenUntil(now); open && !throttled {
			o.NotBefore, o.StandIn = later(o.NotBefore, until), a.standIn(c, d)
		}
	}
	a.settle(c, d, o)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// standIn is who is told in a receiver's place; a stand-in has none, or two
// could tell each other for ever, and what merely happened is nobody else's.
func (a *Alerting) standIn(c *chain, d alert.Delivery) string {
	if d.StandsIn || d.Occasion == alert.Story {
		return ""
	}
	return c.fallback
}

// try hands a delivery to the notifier, as a part of the trace that it belongs
// to.
func (a *Alerting) try(ctx context.Context, c *chain, d alert.Delivery) error {
	ctx, cancel := context.WithTimeout(ctx, a.config.TryTimeout)
	defer cancel()
	if d.Traceparent == "" {
		return c.notifier.Notify(ctx, d)
	}
	ctx, span := a.deps.Tracer.Start(telemetry.WithTraceparent(ctx, d.Traceparent), "vigil.notify",
		trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(
			attribute.String("vigil.receiver", c.name),
			attribute.String("vigil.incident", d.Incident.GetIncidentId()),
			attribute.String("vigil.run", d.Incident.GetRunId()),
			attribute.Int("vigil.tries", d.Tries+1),
		))
	defer span.End()
	err := c.notifier.Notify(ctx, d)
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	return err
}

// backoff is the wait after so many tries before this one; chance, from 0 to
// 1, takes up to a quarter off, so that many who failed together do not come
// back together.
func backoff(tries int, chance float64) time.Duration {
	wait := maxWait
	if tries < 6 { // 1s, 2s, 4s, ... 32s
		wait = firstWait << max(0, tries)
	}
	return max(firstWait, wait-time.Duration(chance*float64(wait)/4))
}
