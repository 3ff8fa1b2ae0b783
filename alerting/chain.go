package alerting

import (
	"errors"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"
	"golang.org/x/time/rate"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/notify"
)

// A receiver's bounds.
const (
	// workers is how many deliveries one receiver gets at a time.
	workers = 4
	// laneJobs is how many wait in memory for one receiver. What is beyond it
	// stays in the queue.
	laneJobs = 2 * leaseBatch
)

// When a receiver counts as broken, and for how long it is then left alone.
const (
	breakAfter = 5                // tries in a row
	breakFor   = 30 * time.Second // then one try
	// refusedAfter is how many deliveries in a row it refuses for good before it
	// counts as failing: one may be the delivery's own fault.
	refusedAfter = 3
)

// job is a delivery and until when it is ours.
type job struct {
	alert.Delivery
	leaseEnds time.Time
}

// chain is one receiver with the deliveries that wait for it here, and all that
// stands between them and it.
type chain struct {
	receiver
	jobs    chan job
	limiter *rate.Limiter
	breaker *gobreaker.TwoStepCircuitBreaker[struct{}]
	clock   func() time.Time

	mu      sync.Mutex
	resume  time.Time // it asked for no try before this
	broken  time.Time // the breaker is open until this
	skipped bool      // it had no room when the queue was read
	health  health
}

// health is how a receiver has been of late.
type health struct {
	since    time.Time // of the first of the tries in a row that it did not take; zero when it is well
	refused  int       // how many of them it refused for good
	cause    string    // of the last one
	failing  bool      // so much that people are to know
	reported bool      // and they have been told
	took     time.Time // when it took something last
}

func newChain(r receiver, clock func() time.Time) *chain {
	c := &chain{receiver: r, jobs: make(chan job, laneJobs), clock: clock, limiter: rate.NewLimiter(rate.Inf, 0)}
	if l := r.limit; l.PerSecond > 0 {
		c.limiter = rate.NewLimiter(rate.Limit(l.PerSecond), max(1, l.Burst))
	}
	c.breaker = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name: r.name, MaxRequests: 1, Timeout: breakFor,
		ReadyToTrip:   func(counts gobreaker.Counts) bool { return counts.ConsecutiveFailures >= breakAfter },
		IsSuccessful:  answered,
		IsExcluded:    func(err error) bool { return errors.Is(err, errStopped) },
		OnStateChange: func(_ string, _, to gobreaker.State) { c.turned(to) },
	})
	return c
}

// answered tells whether a receiver is there, whatever it thinks of the
// delivery.
func answered(err error) bool {
	_, throttled := notify.ThrottledFor(err)
	return err == nil || throttled || notify.IsPermanent(err)
}

// turned notes what the breaker does.
func (c *chain) turned(to gobreaker.State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken = time.Time{}
	if to == gobreaker.StateOpen {
		c.broken = c.clock().Add(breakFor + time.Millisecond) // the breaker wants it to be over
		c.health.failing = true
	}
}

// pause keeps the receiver from being tried before a time.
func (c *chain) pause(until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if until.After(c.resume) {
		c.resume = until
	}
}

// paused tells until when the receiver must not be tried.
func (c *chain) paused(now time.Time) (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.resume, c.resume.After(now)
}

// brokenUntil tells until when the breaker is open.
func (c *chain) brokenUntil(now time.Time) (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.broken, c.broken.After(now)
}

// away tells whether deliveries are better left in the queue: there is no room
// for them here, or it asked to be left alone. While a breaker is open only
// those that a stand-in can be told are wanted.
func (c *chain) away(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.skipped = len(c.jobs) > laneJobs-leaseBatch
	return c.skipped || c.resume.After(now) || (c.broken.After(now) && c.fallback == "")
}

// hasRoom tells, once, that a chain that was skipped has room again.
func (c *chain) hasRoom() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.skipped || len(c.jobs) > laneJobs-leaseBatch {
		return false
	}
	c.skipped = false
	return true
}

// judge learns from a try how the receiver is.
func (c *chain) judge(err error, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := &c.health
	_, throttled := notify.ThrottledFor(err)
	switch {
	case err == nil:
		*h = health{took: now, reported: h.reported}
		return
	case throttled:
		return
	}
	if h.since.IsZero() {
		h.since = now
	}
	if notify.IsPermanent(err) {
		h.refused++
	}
	h.cause = err.Error()
	h.failing = h.failing || h.refused >= refusedAfter
}

// news gives the health when people are to be told of it.
func (c *chain) news() (health, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.health, c.health.failing != c.health.reported
}

// reported notes what people were told.
func (c *chain) reported(failing bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.health.reported = failing
}
