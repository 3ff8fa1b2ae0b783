// Package load keeps the control plane alive when it is given more than it has
// memory for: it tells how near the process is to its limit, and what is to be
// refused then, with when to come again.
//
// What costs most and can wait best goes first. When memory is short
// ([Short]), samples and queries of metrics are refused; events, and operators'
// calls, go on. When it is nearly gone ([Critical]) everything is but what shows
// why: health, metrics and profiles. Whatever is refused was not acknowledged,
// and is with its sender still.
package load

import (
	"math"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/metric"
)

// Level is how short memory is.
type Level int32

// The levels.
const (
	Normal Level = iota
	Short
	Critical
)

// String gives the level's name.
func (l Level) String() string {
	return [...]string{"normal", "short", "critical"}[l]
}

// Work is a kind of work, as the metric of what was refused names it.
type Work string

// The kinds of work.
const (
	Sessions Work = "sessions" // of agents, when they connect
	Events   Work = "events"
	Samples  Work = "samples" // of agents and by remote write
	Queries  Work = "queries" // of metrics
	Calls    Work = "calls"   // of operators
)

// refusedFrom is the level from which on a kind of work is refused.
func refusedFrom(w Work) Level {
	if w == Samples || w == Queries {
		return Short
	}
	return Critical
}

const (
	// shortShare and criticalShare of the limit are where the levels begin; they
	// end easedShare of the limit below, so that what a refusal sets free is not
	// taken up again at once.
	shortShare    = 0.85
	criticalShare = 0.95
	easedShare    = 0.05
	// readEvery is how long a reading holds.
	readEvery = 50 * time.Millisecond
	// collectEvery is how long there is between two collections that are made to
	// see what is free, at least; together they take a tenth of the time at most.
	collectEvery = 2 * time.Second
	collectShare = 10
	// comeAgain is what those are told who are refused. Agents spread it by half.
	comeAgain = 5 * time.Second
)

// Usage is what a process has of its memory, in bytes.
type Usage struct {
	// Live is what is in use for certain: what the last collection of garbage
	// left on the heap, stacks, and what the runtime itself needs.
	Live uint64
	// Held is what the process has from the system, garbage included.
	Held uint64
}

// Deps is what a gauge is given.
type Deps struct {
	// Read gives what the process uses; nil reads the Go runtime's figures.
	Read func() Usage
	// Collect frees what can be freed while memory is nearly gone; nil has the Go
	// runtime collect garbage and give it back.
	Collect func()
	Clock   func() time.Time
	Metrics prometheus.Registerer
}

// Gauge tells how short memory is. It is safe for concurrent use; a nil one
// never refuses.
type Gauge struct {
	limit   uint64 // bytes; 0 is none
	deps    Deps
	refused *prometheus.CounterVec

	level atomic.Int32
	read  atomic.Int64 // when, in nanoseconds since the epoch
	next  atomic.Int64 // when garbage may be collected again, likewise

	mu   sync.Mutex
	last Usage
}

// New makes a gauge for a limit of bytes; 0 refuses nothing.
func New(limitBytes uint64, deps Deps) *Gauge {
	if deps.Read == nil {
		deps.Read = readRuntime
	}
	if deps.Collect == nil {
		deps.Collect = debug.FreeOSMemory
	}
	g := &Gauge{limit: limitBytes, deps: deps, refused: metric.NewCounter(deps.Metrics, metric.ControlRefused)}
	for _, w := range []Work{Sessions, Events, Samples, Queries, Calls} {
		g.refused.WithLabelValues(string(w))
	}
	metric.NewGaugeFunc(deps.Metrics, metric.ControlMemoryLimit, func() float64 { return float64(g.limit) })
	metric.NewGaugeFunc(deps.Metrics, metric.ControlMemoryLive, func() float64 { g.Level(); return float64(g.usage().Live) })
	metric.NewGaugeFunc(deps.Metrics, metric.ControlMemoryLevel, func() float64 { return float64(g.Level()) })
	return g
}

func (g *Gauge) usage() Usage {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.last
}

// Level gives how short memory is, as of [readEvery] ago at most.
func (g *Gauge) Level() Level {
	if g == nil {
		return Normal
	}
	now := g.deps.Clock().UnixNano()
	if before := g.read.Load(); now-before >= int64(readEvery) && g.read.CompareAndSwap(before, now) {
		g.mu.Lock()
		g.last = g.deps.Read()
		g.level.Store(int32(next(Level(g.level.Load()), g.last, g.limit)))
		g.mu.Unlock()
		if Level(g.level.Load()) == Critical {
			g.collect(now)
		}
	}
	return Level(g.level.Load())
}

// collect frees memory, now and then. While all work is refused nothing is
// allocated, and the runtime has no reason to collect: what was in use at the
// worst moment would count for minutes, and refuse everybody.
func (g *Gauge) collect(now int64) {
	from := g.next.Load()
	if now < from || !g.next.CompareAndSwap(from, math.MaxInt64) {
		return
	}
	began := g.deps.Clock()
	g.deps.Collect()
	ended := g.deps.Clock()
	g.next.Store(ended.Add(max(collectEvery, collectShare*ended.Sub(began))).UnixNano())
	g.read.Store(0) // look again at once
}

// next gives the level behind another one.
func next(level Level, u Usage, limit uint64) Level {
	if limit == 0 {
		return Normal
	}
	share := float64(u.Live) / float64(limit)
	if u.Held > limit+limit/10 {
		share = max(share, criticalShare) // garbage comes faster than it is collected
	}
	at := func(l Level, from float64) bool {
		return share >= from || level >= l && share >= from-easedShare
	}
	switch {
	case at(Critical, criticalShare):
		return Critical
	case at(Short, shortShare):
		return Short
	default:
		return Normal
	}
}

// Admit gives nil, or with [fault.Exhausted] that work is refused and when to
// come again; then it is counted.
func (g *Gauge) Admit(w Work) error {
	level := g.Level()
	if level < refusedFrom(w) {
		return nil
	}
	g.refused.WithLabelValues(string(w)).Inc()
	return fault.WithHint(fault.WithRetry(
		fault.New(fault.Exhausted, "the control plane is short of memory (%s) and takes no %s now", level, w), comeAgain),
		"nothing is lost: it comes again by itself; more memory, or memory_limit_bytes, mends it for good")
}

// Err says what is wrong while memory is nearly gone; nil otherwise.
func (g *Gauge) Err() error {
	if g.Level() < Critical {
		return nil
	}
	u := g.usage()
	return fault.New(fault.Exhausted, "memory is nearly gone: %d MiB of %d MiB are in use", u.Live>>20, g.limit>>20)
}
