// Package reflex has a run saved when nobody else does: a trainer met a
// non-finite value and waits to be told what to do, and the control plane is
// away or does not answer in time.
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
	maxWaiting = 256  // events that wait at a time
	maxSeen    = 1024 // event ids that are remembered
)

// Config is what users say about the reflex.
type Config struct {
	// Wait is how long the control plane has to answer an event. It must be
	// well below the trainers' hold time, after which they save by themselves.
	Wait time.Duration `yaml:"wait"`
	// Timeout is how long the checkpoint may take.
	Timeout time.Duration `yaml:"timeout"`
}

// Defaults waits two seconds.
func Defaults() Config { return Config{Wait: 2 * time.Second, Timeout: time.Minute} }

// Check reports settings that cannot work.
func (c Config) Check(report func(key, format string, args ...any)) {
	for key, d := range map[string]time.Duration{"wait": c.Wait, "timeout": c.Timeout} {
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
}

// Deps is what the reflex needs of others.
type Deps struct {
	Log     *slog.Logger
	Metrics prometheus.Registerer
	Clock   func() time.Time
	Orders  Orders
	// Connected tells whether the control plane can be reached.
	Connected func() bool
}

// Reflex answers urgent events. All methods are safe for concurrent use; Run
// is called once.
type Reflex struct {
	config  Config
	deps    Deps
	ordered prometheus.Counter
	dropped prometheus.Counter
	events  chan *commonv1.Event

	mu       sync.Mutex
	seen     map[string]bool
	order    []string        // of seen, the oldest first
	ordering map[string]bool // runs whose order is about to be given
}

// New makes a reflex that acts when Run is called.
func New(config Config, deps Deps) *Reflex {
	return &Reflex{
		config: config, deps: deps,
		ordered: metric.NewCounter(deps.Metrics, metric.AgentReflexes).WithLabelValues(),
		dropped: metric.NewCounter(deps.Metrics, metric.AgentReflexDropped).WithLabelValues(),
		events:  make(chan *commonv1.Event, maxWaiting),
		seen:    map[string]bool{}, ordering: map[string]bool{},
	}
}

// Observe takes an event that is on stable storage. It does not block: when too
// many wait, the event is dropped and counted, and its trainer saves by itself
// when its hold is over.
func (r *Reflex) Observe(event *commonv1.Event) {
	if event.GetNonFinite() == nil || !r.first(event.EventId) {
		return
	}
	select {
	case r.events <- event:
	default:
		r.dropped.Inc()
	}
}

// first remembers an event and tells whether it is new.
func (r *Reflex) first(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen[id] {
		return false
	}
	if len(r.order) == maxSeen {
		delete(r.seen, r.order[0])
		r.order = r.order[1:]
	}
	r.seen[id] = true
	r.order = append(r.order, id)
	return true
}

// Run answers events until ctx ends.
func (r *Reflex) Run(ctx context.Context) error {
	group := life.NewGroup(ctx)
	slots := make(chan struct{}, maxWaiting)
	for {
		select {
		case <-ctx.Done():
			return group.Wait()
		case event := <-r.events:
			select {
			case slots <- struct{}{}:
			default:
				r.dropped.Inc()
				continue
			}
			group.Go("answer", func(ctx context.Context) error {
				defer func() { <-slots }()
				return r.answer(ctx, event)
			})
		}
	}
}

// answer waits for the control plane, if it is there, and orders when it did
// not.
func (r *Reflex) answer(ctx context.Context, event *commonv1.Event) error {
	if r.deps.Connected() {
		timer := time.NewTimer(r.config.Wait)
		defer timer.Stop()
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
	}
	if !r.claim(event) {
		return nil
	}
	defer r.release(event.RunId)
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("make checkpoint id: %w", err)
	}
	log := r.deps.Log.With("run", event.RunId, "checkpoint", id.String())
	log.Warn("a trainer met a non-finite value and nobody answers: have it save", "step", event.GetNonFinite().Step, "rank", event.Rank)
	r.ordered.Inc()
	err = r.deps.Orders.Order(ctx, &commonv1.CheckpointOrder{
		RunId: event.RunId, CheckpointId: id.String(),
		Reason:  commonv1.CheckpointReason_CHECKPOINT_REASON_REFLEX,
		After:   commonv1.AfterCheckpoint_AFTER_CHECKPOINT_RESTART,
		Failure: commonv1.FailureKind_FAILURE_KIND_NONFINITE,
	}, "", event.Traceparent, r.deps.Clock().Add(r.config.Timeout))
	if err != nil && ctx.Err() == nil {
		log.Error("have run saved", "error", err)
	}
	return nil
}

// claim tells whether an event still needs an answer. Ranks that fail at one
// step report one event each; one order answers them all.
func (r *Reflex) claim(event *commonv1.Event) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	since := r.deps.Clock()
	if event.Time != nil {
		since = event.Time.AsTime()
	}
	if r.ordering[event.RunId] || r.deps.Orders.Answered(event.RunId, since) {
		return false
	}
	r.ordering[event.RunId] = true
	return true
}

func (r *Reflex) release(runID string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.ordering, runID)
}
