package trainer

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vigil-ml/vigil/internal/telemetry"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

const (
	maxOrders      = 8   // orders that wait for a step boundary
	rememberedSeen = 128 // directives that are known to have been seen
)

// Order is a checkpoint that is to be made: asked for by a directive, or the
// process' own.
type Order struct {
	CheckpointID string // chosen by whoever asked; empty for the process' own
	Reason       commonv1.CheckpointReason
	After        commonv1.AfterCheckpoint // what the process does once it has saved
	Failure      commonv1.FailureKind     // the failure that is answered
	Deadline     time.Time                // past it the order is not worth carrying out; zero: never
	Traceparent  string                   // W3C trace context of whoever asked; may be empty
	// Patience is how long Save waits for an absent agent at a time; 0: for as
	// long as Save may take.
	Patience  time.Duration
	directive string
}

// Own is an order that a process gives itself.
func Own(reason commonv1.CheckpointReason, after commonv1.AfterCheckpoint) *Order {
	return &Order{Reason: reason, After: after}
}

// Ends tells whether the process exits once it has saved.
func (o *Order) Ends() bool {
	return o.After == commonv1.AfterCheckpoint_AFTER_CHECKPOINT_RESTART || o.Stops()
}

// Stops tells whether the process exits for good once it has saved.
func (o *Order) Stops() bool { return o.After == commonv1.AfterCheckpoint_AFTER_CHECKPOINT_STOP }

// answers tells whether an order can be the answer to a failed step: one that
// lets the process train on is not.
func (o *Order) answers() bool { return o.Ends() }

func anyOrder(*Order) bool { return true }

// PendingOrder gives the oldest order that waits, once, or nil. It never
// blocks; call it at every step boundary. Orders past their deadline are
// reported as failed and not given.
func (s *Session) PendingOrder() *Order {
	if s.orders.waiting.Load() == 0 {
		return nil
	}
	for {
		order := s.orders.take(anyOrder)
		if order == nil || order.Deadline.IsZero() || s.deps.Clock().Before(order.Deadline) {
			return order
		}
		s.failed(order, order.CheckpointID, "its deadline passed before a step boundary came")
	}
}

// direct takes a directive: it says at once that the order arrived, and keeps
// it for the training loop. One seen before is left alone.
func (s *Session) direct(ctx context.Context, directive *commonv1.Directive) {
	if directive.GetProfile() != nil {
		s.profile(directive)
		return
	}
	verb := directive.GetCheckpoint()
	if verb == nil { // the first word of a watch, or a verb of a later version
		return
	}
	ctx, span := s.deps.Tracer.Start(telemetry.WithTraceparent(ctx, directive.GetTraceparent()), "vigil.directive")
	defer span.End()
	order := &Order{
		CheckpointID: verb.GetCheckpointId(), Reason: verb.GetReason(), After: verb.GetAfter(), Failure: verb.GetFailure(),
		Traceparent: telemetry.Traceparent(ctx), directive: directive.GetDirectiveId(),
	}
	if directive.GetDeadline() != nil {
		order.Deadline = directive.GetDeadline().AsTime()
	}
	switch s.orders.put(order) {
	case orderTaken:
		s.progress(order, order.CheckpointID, commonv1.CheckpointState_CHECKPOINT_STATE_DIRECTED, "")
	case orderRefused:
		s.failed(order, order.CheckpointID, "too many orders wait for a step boundary")
	case orderSeen:
	}
}

// failed reports that an order will not be carried out.
func (s *Session) failed(order *Order, checkpointID, why string) {
	if checkpointID == "" { // nobody knows of it yet
		return
	}
	s.progress(order, checkpointID, commonv1.CheckpointState_CHECKPOINT_STATE_FAILED, why)
}

func (s *Session) progress(order *Order, checkpointID string, state commonv1.CheckpointState, why string) {
	s.Report(&commonv1.Event{
		Traceparent: order.Traceparent,
		Body: &commonv1.Event_Checkpoint{Checkpoint: &commonv1.CheckpointProgress{
			CheckpointId: checkpointID, State: state, Reason: order.Reason, Failure: order.Failure, Error: why,
		}},
	})
}

// mailbox holds orders between the watch and the training loop. It is bounded
// and refuses when full. It is safe for concurrent use.
type mailbox struct {
	waiting atomic.Int32 // len(orders), for a look without the lock
	arrived chan struct{}
	mu      sync.Mutex
	orders  []*Order
	seen    []string // ids of the last directives
}

type putResult int

const (
	orderTaken putResult = iota
	orderSeen
	orderRefused
)

func newMailbox() *mailbox { return &mailbox{arrived: make(chan struct{}, 1)} }

func (m *mailbox) put(order *Order) putResult {
	m.mu.Lock()
	defer m.mu.Unlock()
	if slices.Contains(m.seen, order.directive) {
		return orderSeen
	}
	if len(m.orders) == maxOrders {
		return orderRefused
	}
	if len(m.seen) == rememberedSeen {
		m.seen = slices.Delete(m.seen, 0, 1)
	}
	m.seen = append(m.seen, order.directive)
	m.orders = append(m.orders, order)
	m.waiting.Add(1)
	select {
	case m.arrived <- struct{}{}:
	default:
	}
	return orderTaken
}

// take removes the oldest order that fits, or gives nil.
func (m *mailbox) take(fits func(*Order) bool) *Order {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.IndexFunc(m.orders, fits)
	if i < 0 {
		return nil
	}
	order := m.orders[i]
	m.orders = slices.Delete(m.orders, i, i+1)
	m.waiting.Add(-1)
	return order
}
