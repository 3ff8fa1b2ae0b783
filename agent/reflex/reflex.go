// Package reflex has runs saved when nobody else does: the control plane is away
// or does not answer in time, and
//   - a trainer met a non-finite value and waits to be told what to do,
//   - the machine or the job is about to be taken away (a preemption notice),
//   - a GPU that a run computes on has failed (a critical fault),
//   - memory is about to run out, of the node or of a job's control group.
//
// A non-finite value ends the attempt, which is restarted from what was saved.
// The others only have the run saved: it may live on, and if it does not, less
// is lost. Each cause is answered once, however many ranks tell of it.
package reflex

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/metric"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

const (
	maxWaiting = 256  // causes that wait at a time
	maxSeen    = 1024 // causes that are remembered
)

// Config is what users say about the reflex.
type Config struct {
	// Wait is how long the control plane has to answer an event. It must be
	// well below the trainers' hold time, after which they save by themselves.
	Wait time.Duration `yaml:"wait"`
	// Timeout is how long the checkpoint may take.
	Timeout time.Duration `yaml:"timeout"`
	// MemoryHorizon is how far ahead memory that runs out counts: about as long
	// as a checkpoint takes.
	MemoryHorizon time.Duration `yaml:"memory_horizon"`
	// Quiet is how long the same cause, for instance the same fault of the same
	// GPU, is not answered again.
	Quiet time.Duration `yaml:"quiet"`
}

// Defaults waits two seconds, looks a minute ahead, and answers a cause that
// stays every ten minutes.
func Defaults() Config {
	return Config{Wait: 2 * time.Second, Timeout: time.Minute, MemoryHorizon: time.Minute, Quiet: 10 * time.Minute}
}

// Check reports settings that cannot work.
func (c Config) Check(report func(key, format string, args ...any)) {
	for key, d := range map[string]time.Duration{
		"wait": c.Wait, "timeout": c.Timeout, "memory_horizon": c.MemoryHorizon, "quiet": c.Quiet,
	} {
		if d <= 0 {
			report(key, "is %s; want a positive duration", d)
		}
	}
}

// Orders has runs saved and knows which were.
type Orders interface {
	// Order has a run saved and returns when that is done.
	Order(ctx context.Context, order *commonv1.CheckpointOrder, commandID, traceparent string, deadline time.Time) error
	// Answered tells whether an order that ends the run's attempt is being
	// carried out or was given since a time.
	Answered(runID string, since time.Time) bool
	// Saved tells whether any order for the run is being carried out or was
	// given since a time.
	Saved(runID string, since time.Time) bool
}

// Deps is what the reflex needs of others.
type Deps struct {
	Log     *slog.Logger
	Metrics prometheus.Registerer
	Clock   func() time.Time
	Orders  Orders
	// Connected tells whether the control plane can be reached.
	Connected func() bool
	// Runs gives the runs that have a training process here.
	Runs func() []string
}

// Reflex answers what is urgent. All methods are safe for concurrent use; Run
// is called once.
type Reflex struct {
	config  Config
	deps    Deps
	ordered *prometheus.CounterVec
	dropped prometheus.Counter
	causes  chan cause

	mu       sync.Mutex
	seen     map[string]time.Time // causes, and when they were told
	order    []string             // of seen, the oldest first
	ordering map[string]bool      // runs whose order is about to be given
	memory   map[string]*memory   // by scope: "" for the node, else a run
}

// New makes a reflex that acts when Run is called.
func New(config Config, deps Deps) *Reflex {
	return &Reflex{
		config: config, deps: deps,
		ordered: metric.NewCounter(deps.Metrics, metric.AgentReflexes),
		dropped: metric.NewCounter(deps.Metrics, metric.AgentReflexDropped).WithLabelValues(),
		causes:  make(chan cause, maxWaiting),
		seen:    map[string]time.Time{}, ordering: map[string]bool{}, memory: map[string]*memory{},
	}
}

// offer takes a cause up unless it was before. It does not block: when too many
// wait, the cause is dropped and counted.
func (r *Reflex) offer(c cause) {
	if !r.first(c) {
		return
	}
	select {
	case r.causes <- c:
	default:
		r.dropped.Inc()
	}
}

// first remembers a cause and tells whether it is new, or old enough to be
// answered again.
func (r *Reflex) first(c cause) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.deps.Clock()
	at, known := r.seen[c.key]
	if known && (c.once || now.Sub(at) < r.config.Quiet) {
		return false
	}
	if !known {
		if len(r.order) == maxSeen {
			delete(r.seen, r.order[0])
			r.order = r.order[1:]
		}
		r.order = append(r.order, c.key)
	}
	r.seen[c.key] = now
	return true
}

// Run answers causes until ctx ends.
func (r *Reflex) Run(ctx context.Context) error {
	group := life.NewGroup(ctx)
	slots := make(chan struct{}, maxWaiting)
	for {
		select {
		case <-ctx.Done():
			return group.Wait()
		case c := <-r.causes:
			select {
			case slots <- struct{}{}:
			default:
				r.dropped.Inc()
				continue
			}
			group.Go("answer", func(ctx context.Context) error {
				defer func() { <-slots }()
				return r.answer(ctx, c)
			})
		}
	}
}

// answer waits for the control plane, if it is there, and orders when it did
// not.
func (r *Reflex) answer(ctx context.Context, c cause) error {
	if r.deps.Connected() && !life.Sleep(ctx, r.config.Wait) {
		return nil
	}
	if !r.claim(c) {
		return nil
	}
	defer r.release(c.run)
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("make checkpoint id: %w", err)
	}
	log := r.deps.Log.With("run", c.run, "checkpoint", id.String())
	log.Warn(c.what+", and nobody answers: have it save", c.details...)
	r.ordered.WithLabelValues(c.kind).Inc()
	now := r.deps.Clock()
	deadline := now.Add(r.config.Timeout)
	if c.deadline.After(now) && c.deadline.Before(deadline) {
		deadline = c.deadline
	}
	err = r.deps.Orders.Order(ctx, &commonv1.CheckpointOrder{
		RunId: c.run, CheckpointId: id.String(), Reason: commonv1.CheckpointReason_CHECKPOINT_REASON_REFLEX,
		After: c.after(), Failure: c.failure,
	}, "", c.traceparent, deadline)
	if err != nil && ctx.Err() == nil {
		log.Error("have run saved", "error", err)
	}
	return nil
}

// claim tells whether a cause still needs an answer. Ranks that fail at one
// step report one event each; one order answers them all.
func (r *Reflex) claim(c cause) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	answered := r.deps.Orders.Saved
	if c.ends {
		answered = r.deps.Orders.Answered
	}
	if r.ordering[c.run] || answered(c.run, c.since) {
		return false
	}
	r.ordering[c.run] = true
	return true
}

func (r *Reflex) release(runID string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.ordering, runID)
}
