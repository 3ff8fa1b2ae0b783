package command

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/agent/localapi"
	"github.com/vigil-ml/vigil/agent/vault"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// Observe takes an event of a trainer or of the vault. It does not block.
func (c *Checkpoints) Observe(event *commonv1.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch body := event.GetBody().(type) {
	case *commonv1.Event_NonFinite:
		bounded(c.failures)
		c.failures[event.RunId] = event.Attempt
	case *commonv1.Event_RunEnded:
		// When it was answered stays known: a reflex may still wait to see whether
		// anybody did.
		delete(c.failures, event.RunId)
	case *commonv1.Event_Checkpoint:
		c.observeProgress(event, body.Checkpoint)
	}
}

func (c *Checkpoints) observeProgress(event *commonv1.Event, progress *commonv1.CheckpointProgress) {
	p := c.pending[progress.CheckpointId]
	if p == nil || p.Order.RunId != event.RunId {
		return
	}
	r := p.ranks[event.Rank]
	if r == nil {
		return
	}
	switch progress.State {
	case commonv1.CheckpointState_CHECKPOINT_STATE_STAGED:
		r.staged = true
	case commonv1.CheckpointState_CHECKPOINT_STATE_VERIFIED:
		r.verified = true
	case commonv1.CheckpointState_CHECKPOINT_STATE_FAILED:
		r.failed, r.cause = true, progress.Error
	default:
		return
	}
	select {
	case r.changed <- struct{}{}:
	default: // a token is there already
	}
}

// wait waits for every rank of an order; the first that fails ends it.
func (c *Checkpoints) wait(ctx context.Context, p *pending) (err error) {
	defer func() {
		c.remove(p)
		c.end(p, err)
	}()
	limited, cancel := context.WithTimeout(ctx, p.deadline.Sub(c.deps.Clock()))
	defer cancel()
	group := life.NewGroup(limited)
	results := make(chan error, len(p.ranks))
	for n, r := range p.ranks {
		group.Go(fmt.Sprintf("rank %d", n), func(ctx context.Context) error {
			err := c.waitRank(ctx, p, r)
			if err != nil {
				results <- err
				group.Stop()
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	close(results)
	for result := range results {
		if err == nil || errors.Is(err, context.Canceled) {
			err = result
		}
	}
	return err
}

// waitRank waits until one rank's checkpoint is verified. A failure that nobody
// else tells is told here.
func (c *Checkpoints) waitRank(ctx context.Context, p *pending, r *rank) error {
	session := r.session
	gone := c.deps.Trainers.Gone(session)
	var back <-chan time.Time
	for {
		staged, done, err := c.look(p, r)
		if done {
			return err
		}
		select {
		case <-r.changed:
		case <-gone:
			// A process that only lost its connection is soon back with another
			// session, and has its directive.
			timer := time.NewTimer(reconnectWait)
			defer timer.Stop()
			gone, back = nil, timer.C
		case <-back:
			back = nil
			if next := successor(c.deps.Trainers, session); next != nil {
				session, gone = next, c.deps.Trainers.Gone(next)
			} else if !staged {
				return c.fail(ctx, p, session, fault.New(fault.Unavailable,
					"trainer of run %s (pid %d) went away before it saved", session.RunID, session.PID))
			}
		case <-ctx.Done():
			return c.late(ctx, p, session, staged)
		}
	}
}

// look reads what the events said of a rank so far.
func (c *Checkpoints) look(p *pending, r *rank) (staged, done bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case r.verified:
		return true, true, nil
	case r.failed:
		return r.staged, true, fault.New(fault.Precondition, "checkpoint %s of run %s: rank %d: %s",
			p.Order.CheckpointId, p.Order.RunId, r.session.Rank, r.cause)
	default:
		return r.staged, false, nil
	}
}

// successor gives the session that the process of an ended one has now.
func successor(trainers Trainers, s *localapi.Session) *localapi.Session {
	for _, next := range trainers.Trainers(s.RunID) {
		if next.Rank == s.Rank && next.PID == s.PID && next.Attempt == s.Attempt {
			return next
		}
	}
	return nil
}

// late ends the wait for a rank when its time is over. What is staged is the
// vault's: it will say what became of it.
func (c *Checkpoints) late(ctx context.Context, p *pending, s *localapi.Session, staged bool) error {
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return ctx.Err()
	}
	allowed := p.deadline.Sub(p.started).Round(time.Millisecond)
	if staged {
		return fault.New(fault.Deadline, "checkpoint %s of run %s is staged and was not verified within %s",
			p.Order.CheckpointId, s.RunID, allowed)
	}
	if !c.deps.Trainers.Watched(s) {
		return c.fail(ctx, p, s, fault.New(fault.Deadline,
			"trainer of run %s (pid %d) does not watch for directives, and could not be told to save within %s", s.RunID, s.PID, allowed))
	}
	return c.fail(ctx, p, s, fault.New(fault.Deadline, "run %s did not reach a step boundary within %s", s.RunID, allowed))
}

func (c *Checkpoints) fail(ctx context.Context, p *pending, s *localapi.Session, err error) error {
	c.tell(context.WithoutCancel(ctx), p, s, commonv1.CheckpointState_CHECKPOINT_STATE_FAILED, err.Error())
	return err
}

// tell emits progress of an order, for one process or, with nil, for all.
func (c *Checkpoints) tell(ctx context.Context, p *pending, s *localapi.Session, state commonv1.CheckpointState, cause string) {
	event := &commonv1.Event{
		EventId: uuid.Must(uuid.NewV7()).String(), Time: timestamppb.New(c.deps.Clock()),
		RunId: p.Order.RunId, Traceparent: p.Traceparent,
		Body: &commonv1.Event_Checkpoint{Checkpoint: &commonv1.CheckpointProgress{
			CheckpointId: p.Order.CheckpointId, State: state, Reason: p.Order.Reason,
			CommandId: p.CommandID, Failure: p.Order.Failure, Error: cause,
		}},
	}
	if s == nil {
		if here := c.deps.Trainers.Trainers(p.Order.RunId); len(here) > 0 {
			event.Attempt = here[0].Attempt
		}
	} else {
		event.Attempt, event.Rank = s.Attempt, s.Rank
	}
	if err := c.deps.Events(ctx, p.Order.RunId, event); err != nil {
		c.deps.Log.Warn("write checkpoint event", "run", p.Order.RunId, "checkpoint", p.Order.CheckpointId, "state", vault.StateName(state), "error", err)
	}
}
