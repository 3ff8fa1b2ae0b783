package alerting

import (
	"sync"
	"time"

	"github.com/vigil-ml/vigil/alerting/alert"
)

// A receiver's bounds.
const (
	// workers is how many deliveries one receiver gets at a time.
	workers = 4
	// laneJobs is how many wait in memory for one receiver: a burst of a large
	// cluster. What is beyond it waits in the queue.
	laneJobs = 1024
)

// job is a delivery and until when it is ours.
type job struct {
	alert.Delivery
	leaseEnds time.Time
}

// chain is one receiver with the deliveries that wait for it here.
type chain struct {
	receiver
	jobs chan string // ids of what waits

	mu     sync.Mutex
	leased map[string]job // what waits, by id
	resume time.Time      // the receiver asked for no try before this
}

func newChain(r receiver) *chain {
	return &chain{receiver: r, jobs: make(chan string, laneJobs), leased: map[string]job{}}
}

// hold notes that a delivery waits here. It is false for one that does so
// already and whose lease ran out over it: its lease is the new one now.
func (c *chain) hold(j job) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, known := c.leased[j.ID]
	c.leased[j.ID] = j
	return !known
}

// take gives a delivery that waits here and forgets it: from now on its lease
// alone keeps it from coming twice.
func (c *chain) take(id string) job {
	c.mu.Lock()
	defer c.mu.Unlock()
	j := c.leased[id]
	delete(c.leased, id)
	return j
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
