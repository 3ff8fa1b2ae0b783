// Package collect is what a collector of samples is, and the [Runner] that
// calls collectors.
//
// A collector is one package with `var Kind = plug.Of("host", Config{}, New)`
// and one line in agent/builtin.go. It needs no goroutine, no ticker and no
// clock: the runner calls it at its interval, one call at a time, stamps its
// samples, bounds its time and survives its panics.
package collect

import (
	"context"
	"log/slog"
	"time"

	"github.com/vigil-ml/vigil/internal/metric"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// Status is how a collector is.
type Status string

// The statuses.
const (
	// Ok: it measures.
	Ok Status = "ok"
	// Unsupported: there is nothing to measure on this machine.
	Unsupported Status = "unsupported"
	// Unknown: it has not been called yet, or something failed; the error says
	// what.
	Unknown Status = "unknown"
	// Stuck: a call has not returned in its time. The runner says this, and a
	// collector whose own helper hangs.
	Stuck Status = "stuck"
)

// statuses is every status, for the gauge with one series for each.
func statuses() []Status { return []Status{Ok, Unsupported, Unknown, Stuck} }

// Collector measures something on this machine.
//
// Collectors that hold something open also implement [io.Closer]; the runner
// closes them when it ends, unless a call is stuck.
type Collector interface {
	// Collect hands samples to emit and says how it went. What cannot be
	// measured is left out: a missing sample says unknown, a zero would say
	// zero. What was emitted counts even when an error follows. It returns when
	// ctx ends. The runner makes no two calls at once, and gives samples
	// without a time the time of the call. Emit must not be called after
	// Collect has returned; it is safe for concurrent use and never blocks.
	Collect(ctx context.Context, emit func(metric.Sample)) (Status, error)
}

// Paced is a collector that is called at another interval than the agent's own
// where the configuration sets none: one that is dear, or must be prompt.
type Paced interface {
	// Pace is the time from one call to the next, above 0.
	Pace() time.Duration
}

// Steady is a collector that is called more often than its figures change.
type Steady interface {
	// Steady tells whether the last call gave what the call before it gave. Such
	// samples are shown, and recorded every ten seconds.
	Steady() bool
}

// Prompt is a collector that knows when there is something to collect before its
// interval is over.
type Prompt interface {
	// Await returns when there is something, and when ctx ends, which it does
	// when the interval is over. It is called between two calls of Collect, after
	// one that was [Ok].
	Await(ctx context.Context)
}

// Deps is what code injects into a collector.
type Deps struct {
	Log *slog.Logger
	// Faults records one thing that the node says is broken; it is on disk on
	// return. An error means that it is not, and should be told again. One whose
	// key was recorded lately is left out.
	Faults func(ctx context.Context, fault *commonv1.NodeFault) error
	// Trainers gives the training processes that are registered now.
	Trainers func() []Trainer
	// GPU is which GPUs the agent was told that there are: empty for those of the
	// driver; see package nvml/scenario.
	GPU string
	// PerCore is set when somebody needs each CPU's time by itself.
	PerCore bool
	// StateDir is where a collector may keep what outlives a restart, in files
	// that begin with its kind.
	StateDir string
}

// Trainer is a training process that is registered with the agent.
type Trainer struct {
	RunID   string
	Attempt uint32
	Rank    uint32
	PID     int64
}
