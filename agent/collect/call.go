package collect

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/metric"
)

// call is one call of a collector, in a goroutine that may outlive the wait
// for it.
type call struct {
	timeout time.Duration
	ended   <-chan struct{} // the call's time is over
	cancel  context.CancelFunc
	group   *life.Group
	done    chan struct{} // the collector has returned
	began   time.Time

	// Set by wait.
	stuck  bool
	status Status
	err    error

	mu       sync.Mutex
	samples  []metric.Sample
	taken    bool
	returned Status
}

// begin starts a call.
func begin(ctx context.Context, s *source, now time.Time) *call {
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	s.mu.Lock()
	expected := len(s.samples)
	s.mu.Unlock()
	c := &call{
		samples: make([]metric.Sample, 0, expected), // mostly as many as the last time
		timeout: s.Timeout, ended: ctx.Done(), cancel: cancel, group: life.NewGroup(ctx),
		done: make(chan struct{}), began: now,
	}
	c.group.Go("collector "+s.Name, func(ctx context.Context) error {
		defer close(c.done)
		status, err := s.Collector.Collect(ctx, c.emit)
		c.mu.Lock()
		c.returned = status
		c.mu.Unlock()
		return err
	})
	return c
}

func (c *call) emit(sample metric.Sample) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.taken {
		return
	}
	if sample.Time.IsZero() {
		sample.Time = c.began
	}
	c.samples = append(c.samples, sample)
}

// wait waits until the collector returns or counts as stuck.
func (c *call) wait() {
	select {
	case <-c.done:
	case <-c.ended:
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-c.done:
		case <-timer.C:
			c.stuck, c.status = true, Stuck
			c.err = fault.New(fault.Deadline, "collect samples: no return within %v", c.timeout)
			return
		}
	}
	c.err = c.group.Wait() // a panic is an error here
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status = c.returned
	switch {
	case c.err != nil && c.status == Unsupported:
	case c.err != nil && c.status == Stuck:
	case c.err != nil:
		c.status = Unknown
	case c.status != Ok && c.status != Unsupported:
		c.status = Unknown
		c.err = errors.New("collect samples: the collector does not say how it went")
	}
}

// take takes what was emitted; what comes later is dropped.
func (c *call) take() []metric.Sample {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.taken = true
	return c.samples
}
