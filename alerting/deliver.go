package alerting

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/internal/telemetry"
)

// The wait before another try: from firstWait on, doubled each time, up to
// maxWait. A receiver that asks for a wait gets it, up to maxThrottle.
const (
	firstWait   = time.Second
	maxWait     = time.Minute
	maxThrottle = time.Hour
)

// deliver makes one try and records how it went. A delivery whose lease would
// end before the try does is left: someone else may have it by then.
func (a *Alerting) deliver(ctx context.Context, c *chain, id string) {
	j, now := c.take(id), a.deps.Clock()
	if now.Add(a.config.TryTimeout).After(j.leaseEnds) {
		a.metrics.notifications.WithLabelValues(c.name, resultDeferred).Inc()
		return
	}
	if until, paused := c.paused(now); paused {
		a.again(ctx, j.Delivery, until, resultDeferred, "the receiver asked to be left alone for a while")
		return
	}
	err := a.try(ctx, c, j.Delivery)
	now = a.deps.Clock()
	wait, throttled := notify.ThrottledFor(err)
	if throttled {
		wait = min(wait, maxThrottle)
		c.pause(now.Add(wait))
	} else {
		wait = backoff(j.Tries, rand.Float64())
	}
	switch {
	case err == nil:
		a.delivered(ctx, j.Delivery, now)
	case ctx.Err() != nil:
		a.again(ctx, j.Delivery, now, resultDeferred, "the control plane stopped during the try")
	case notify.IsPermanent(err):
		a.fail(ctx, j.Delivery, err.Error())
	case now.Sub(j.Created) >= a.config.MaxAge:
		a.fail(ctx, j.Delivery, fmt.Sprintf("given up after %v: %v", a.config.MaxAge, err))
	default:
		a.deps.Log.Warn("a notification will be tried again", "receiver", c.name,
			"incident", j.Incident.GetIncidentId(), "tries", j.Tries+1, "wait", wait, "error", err)
		a.again(ctx, j.Delivery, now.Add(wait), resultRetried, err.Error())
	}
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

func (a *Alerting) delivered(ctx context.Context, d alert.Delivery, at time.Time) {
	a.metrics.notifications.WithLabelValues(d.Receiver, resultDelivered).Inc()
	a.metrics.seconds.WithLabelValues(d.Receiver).Observe(at.Sub(d.Created).Seconds())
	a.record(ctx, d, func(ctx context.Context) error { return a.deps.Queue.Delivered(ctx, d.ID, at) })
}

func (a *Alerting) again(ctx context.Context, d alert.Delivery, notBefore time.Time, result, cause string) {
	a.metrics.notifications.WithLabelValues(d.Receiver, result).Inc()
	a.record(ctx, d, func(ctx context.Context) error { return a.deps.Queue.Retry(ctx, d.ID, notBefore, cause) })
}

func (a *Alerting) fail(ctx context.Context, d alert.Delivery, cause string) {
	a.deps.Log.Error("a notification is given up", "receiver", d.Receiver,
		"incident", d.Incident.GetIncidentId(), "error", cause)
	a.metrics.notifications.WithLabelValues(d.Receiver, resultFailed).Inc()
	a.record(ctx, d, func(ctx context.Context) error { return a.deps.Queue.Fail(ctx, d.ID, cause) })
}
