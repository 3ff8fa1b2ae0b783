package controlplane_test

import (
	"context"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/testkit"
)

// TestRollingRestart stops the replicas of an installation one after the other,
// under load, and starts each again, as an update does. Nothing is lost or
// doubled, every incident is told of once, and agents move over while the replica
// that they were at drains: each has frames acknowledged elsewhere before the next
// replica stops.
func TestRollingRestart(t *testing.T) {
	c := startChaos(t)
	for _, r := range c.replicas {
		testkit.Eventually(t, "a replica to be ready", r.ready)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	load, trained := life.NewGroup(ctx), life.NewGroup(ctx)
	training, enough := context.WithCancel(ctx)
	defer enough()
	for _, a := range c.agents {
		a.stays = true
		load.Go("agent", func(ctx context.Context) error { a.run(ctx); return nil })
		trained.Go("train", func(context.Context) error { a.trainUntil(training, 60*time.Millisecond); return nil })
	}
	for _, a := range c.agents {
		testkit.Eventually(t, "each agent to be connected", func() bool { return a.progress() > 5 })
	}
	for _, r := range c.replicas {
		began := time.Now()
		r.stop(t)
		stopped := time.Since(began)
		for _, a := range c.agents {
			before := a.progress()
			testkit.Eventually(t, "each agent to go on elsewhere", func() bool { return a.progress() > before })
		}
		t.Logf("a replica took %.1f s to stop; all agents went on %.1f s after it was told to", stopped.Seconds(), time.Since(began).Seconds())
		r.run(t)
		testkit.Eventually(t, "the replica to be ready again", r.ready)
	}
	enough()
	if err := trained.Wait(); err != nil {
		t.Error(err)
	}
	records := openRecords(t, c)
	c.settle(records)
	cancel()
	_ = load.Wait()
	if n := c.judge(records); n.repeats > 0 {
		t.Errorf("%d notifications were delivered more than once", n.repeats)
	}
}

// progress is how many of an agent's frames are acknowledged.
func (a *chaosAgent) progress() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.acked
}
