// Package command does what the agent is told to do.
//
// [Checkpoints] is the one way to have a run saved, whoever asks for it: the
// control plane through [Executor], a supervisor through the trainers' socket,
// or the agent's own reflex. It directs the run's trainers on this node and
// waits until what they saved is verified.
package command

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/google/uuid"

	"github.com/vigil-ml/vigil/agent/localapi"
	"github.com/vigil-ml/vigil/agent/vault"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/telemetry"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

const (
	maxOrders     = 256  // that are carried out at a time
	maxRuns       = 4096 // whose failures are remembered
	reconnectWait = time.Second
)

// Trainers is the training processes on this node; [localapi.Sessions] is.
type Trainers interface {
	// Trainers gives those of a run that are there.
	Trainers(runID string) []*localapi.Session
	// Direct gives a directive to all of them, or those of some ranks, or fails
	// and gives it to none.
	Direct(runID string, d *commonv1.Directive, ranks ...uint32) ([]*localapi.Session, error)
	// Gone is closed when a process is taken to be away.
	Gone(s *localapi.Session) <-chan struct{}
	// Watched tells whether a process ever asked for its directives.
	Watched(s *localapi.Session) bool
}

// EventWriter puts a run's events on stable storage.
type EventWriter func(ctx context.Context, runID string, events ...*commonv1.Event) error

// CheckpointDeps is what Checkpoints needs of others.
type CheckpointDeps struct {
	Log      *slog.Logger
	Tracer   trace.Tracer
	Clock    func() time.Time
	Trainers Trainers
	// Saved tells whether a checkpoint is in the vault and verified.
	Saved  func(runID, checkpointID string) bool
	Events EventWriter
}

// Checkpoints has runs saved. Observe must be told the events of the trainers
// and of the vault. All methods are safe for concurrent use; Run is called
// once.
type Checkpoints struct {
	deps  CheckpointDeps
	waits chan *pending

	mu       sync.Mutex
	pending  map[string]*pending  // by checkpoint
	failures map[string]uint32    // attempt of each run's last non-finite value
	answered map[string]time.Time // when an order that ends an attempt was last given, by run
	given    map[string]time.Time // when any order was
}

// pending is an order that is being carried out.
type pending struct {
	localapi.Ordered
	directive string
	started   time.Time
	deadline  time.Time
	span      trace.Span
	ranks     map[uint32]*rank // set once, under the lock, by direct
}

// rank is what is known of one process of an order. The Checkpoints' lock
// guards it.
type rank struct {
	session  *localapi.Session
	staged   bool
	verified bool
	failed   bool
	cause    string
	changed  chan struct{} // holds a token after a change
}

// NewCheckpoints makes Checkpoints without an order.
func NewCheckpoints(deps CheckpointDeps) *Checkpoints {
	return &Checkpoints{
		deps: deps, waits: make(chan *pending, maxOrders),
		pending: map[string]*pending{}, failures: map[string]uint32{}, answered: map[string]time.Time{},
		given: map[string]time.Time{},
	}
}

// Run waits for the orders that Start gave, until ctx ends.
func (c *Checkpoints) Run(ctx context.Context) error {
	group := life.NewGroup(ctx)
	for {
		select {
		case <-ctx.Done():
			return group.Wait()
		case p := <-c.waits:
			group.Go("order", func(ctx context.Context) error {
				if err := c.wait(ctx, p); err != nil && ctx.Err() == nil {
					c.deps.Log.Warn("have run saved", "run", p.Order.RunId, "checkpoint", p.Order.CheckpointId, "error", err)
				}
				return nil
			})
		}
	}
}

// Order has a run saved: it directs the run's training processes on this node
// and returns when what all of them saved is verified. CommandID is empty for
// an order of the node's own. It fails, after saying so with an event, with
// [fault.NotFound] when no process of the run is here, [fault.Unavailable] when
// one goes away before it has saved, [fault.Deadline] when it takes too long,
// and [fault.Precondition] when the failure that it answers is over.
func (c *Checkpoints) Order(ctx context.Context, order *commonv1.CheckpointOrder, commandID, traceparent string, deadline time.Time) error {
	p, err := c.begin(ctx, order, commandID, traceparent, deadline)
	if err != nil || p == nil {
		return err
	}
	return c.wait(ctx, p)
}

// Start is Order for an order of the node's own that returns when the processes
// were told; Run waits for the rest.
func (c *Checkpoints) Start(ctx context.Context, order *commonv1.CheckpointOrder, traceparent string, deadline time.Time) error {
	p, err := c.begin(ctx, order, "", traceparent, deadline)
	if err != nil || p == nil {
		return err
	}
	c.waits <- p // has room for all that can be pending
	return nil
}

// begin directs the processes; nil without an error when there is nothing left
// to do.
func (c *Checkpoints) begin(ctx context.Context, order *commonv1.CheckpointOrder, commandID, traceparent string, deadline time.Time) (*pending, error) {
	if err := errors.Join(vault.CheckRunID(order.GetRunId()), vault.CheckCheckpointID(order.GetCheckpointId())); err != nil {
		return nil, err
	}
	directive, err := uuid.NewV7()
	if err != nil {
		return nil, err
	}
	p := &pending{
		Ordered:   localapi.Ordered{Order: order, CommandID: commandID, Traceparent: traceparent},
		directive: directive.String(), started: c.deps.Clock(), deadline: deadline,
	}
	if commandID != "" {
		p.directive = commandID // a command that is sent again is not carried out again
	}
	if traceparent != "" {
		spanCtx, span := c.deps.Tracer.Start(telemetry.WithTraceparent(ctx, traceparent), "vigil.command")
		p.Traceparent, p.span = telemetry.Traceparent(spanCtx), span
	}
	if err := c.add(p); err != nil {
		c.end(p, err)
		return nil, err
	}
	if commandID == "" {
		c.tell(ctx, p, nil, commonv1.CheckpointState_CHECKPOINT_STATE_REQUESTED, "")
	}
	if c.deps.Saved(order.RunId, order.CheckpointId) {
		c.remove(p)
		c.end(p, nil)
		return nil, nil
	}
	if err := c.direct(p); err != nil {
		c.remove(p)
		c.tell(ctx, p, nil, commonv1.CheckpointState_CHECKPOINT_STATE_FAILED, err.Error())
		c.end(p, err)
		return nil, err
	}
	return p, nil
}

func (c *Checkpoints) add(p *pending) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := p.Order.CheckpointId
	if c.pending[id] != nil {
		return fault.New(fault.Exists, "checkpoint %s is ordered already", id)
	}
	if len(c.pending) >= maxOrders {
		return fault.New(fault.Exhausted, "%d checkpoints are being made; no more are taken", len(c.pending))
	}
	c.pending[id] = p
	return nil
}

// direct tells the processes. It holds the lock, so that no event of theirs
// can come before it is known whose events are waited for.
func (c *Checkpoints) direct(p *pending) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.deps.Clock().Before(p.deadline) {
		return fault.New(fault.Deadline, "the order's deadline passed %s ago", c.deps.Clock().Sub(p.deadline).Round(time.Millisecond))
	}
	if err := c.over(p.Order); err != nil {
		return err
	}
	sessions, err := c.deps.Trainers.Direct(p.Order.RunId, &commonv1.Directive{
		DirectiveId: p.directive, Deadline: timestamppb.New(p.deadline), Traceparent: p.Traceparent,
		Verb: &commonv1.Directive_Checkpoint{Checkpoint: p.Order},
	})
	if err != nil {
		return err
	}
	p.ranks = make(map[uint32]*rank, len(sessions))
	for _, s := range sessions {
		p.ranks[s.Rank] = &rank{session: s, changed: make(chan struct{}, 1)}
	}
	bounded(c.given)
	c.given[p.Order.RunId] = p.started
	if answers(p.Order) {
		bounded(c.answered)
		c.answered[p.Order.RunId] = p.started
	}
	return nil
}

// over refuses to answer a non-finite value of an attempt that has ended: the
// run was restarted since, and a late order would restart it again.
func (c *Checkpoints) over(order *commonv1.CheckpointOrder) error {
	failed, known := c.failures[order.RunId]
	if order.Failure != commonv1.FailureKind_FAILURE_KIND_NONFINITE || !known {
		return nil
	}
	now := uint32(0)
	for _, s := range c.deps.Trainers.Trainers(order.RunId) {
		if s.Attempt <= failed {
			return nil
		}
		now = s.Attempt
	}
	if now == 0 {
		return nil // nobody is there: Direct says so better
	}
	return fault.New(fault.Precondition, "the failure of attempt %d of run %s is over: attempt %d is running", failed, order.RunId, now)
}

// answers tells whether an order can be the answer to a failure.
func answers(order *commonv1.CheckpointOrder) bool {
	return order.After == commonv1.AfterCheckpoint_AFTER_CHECKPOINT_RESTART ||
		order.After == commonv1.AfterCheckpoint_AFTER_CHECKPOINT_STOP
}

// Answered tells whether an order that ends the run's attempt is being carried
// out or was given since a time.
func (c *Checkpoints) Answered(runID string, since time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.pending {
		if p.Order.RunId == runID && p.ranks != nil && answers(p.Order) {
			return true
		}
	}
	at, ok := c.answered[runID]
	return ok && !at.Before(since)
}

// Saved tells whether any order for a run is being carried out or was given
// since a time.
func (c *Checkpoints) Saved(runID string, since time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.pending {
		if p.Order.RunId == runID && p.ranks != nil {
			return true
		}
	}
	at, ok := c.given[runID]
	return ok && !at.Before(since)
}

// Lookup gives the order for a checkpoint while it is carried out.
func (c *Checkpoints) Lookup(checkpointID string) (localapi.Ordered, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.pending[checkpointID]
	if p == nil {
		return localapi.Ordered{}, false
	}
	return p.Ordered, true
}

func (c *Checkpoints) remove(p *pending) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, p.Order.CheckpointId)
}

func (c *Checkpoints) end(p *pending, err error) {
	if p.span == nil {
		return
	}
	if err != nil {
		p.span.SetStatus(codes.Error, err.Error())
	}
	p.span.End()
}

// bounded makes room in a map that remembers something of each run. Forgetting
// costs an order that was not needed, at worst.
func bounded[V any](m map[string]V) {
	for id := range m {
		if len(m) < maxRuns {
			return
		}
		delete(m, id)
	}
}
