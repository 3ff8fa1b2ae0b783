package alerting

import (
	"context"
	"time"

	"github.com/vigil-ml/vigil/internal/life"
)

// healthRetry is how long the telling of a receiver's trouble waits after it
// could not be told.
const healthRetry = 5 * time.Second

// wakeHealth has the receivers' health looked at; it never waits.
func (a *Alerting) wakeHealth() {
	select {
	case a.looks <- struct{}{}:
	default:
	}
}

// watchHealth tells when a receiver begins to fail and when it is well again.
func (a *Alerting) watchHealth(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.looks:
		}
		for _, name := range a.names {
			if err := a.tellHealth(ctx, a.receivers[name]); err != nil && ctx.Err() == nil {
				a.deps.Log.Warn("could not tell how a receiver is", "receiver", name, "error", err)
				life.Sleep(ctx, healthRetry)
				a.wakeHealth()
			}
		}
	}
}

func (a *Alerting) tellHealth(ctx context.Context, c *chain) error {
	h, news := c.news()
	if !news {
		return nil
	}
	value := 0.0
	if h.failing {
		value = 1
	}
	a.metrics.failing.WithLabelValues(c.name).Set(value)
	if a.deps.Trouble != nil {
		ctx, cancel := context.WithTimeout(ctx, recordTimeout)
		defer cancel()
		var err error
		if h.failing {
			err = a.deps.Trouble.ReceiverFailing(ctx, c.name, h.cause, h.since)
		} else {
			err = a.deps.Trouble.ReceiverWell(ctx, c.name, h.took)
		}
		if err != nil {
			return err
		}
	}
	c.reported(h.failing)
	return nil
}
