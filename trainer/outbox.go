package trainer

import (
	"context"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

const (
	batchItems = 1024 // events in one call
	batchBytes = 1 << 20
	lockItems  = 32 // items copied under the queue's lock at a time
)

// outbox is what has left the queue and is not yet on the agent's disk. It
// belongs to the one task that sends.
type outbox struct {
	events    []*commonv1.Event
	sizeBytes int   // of events
	told      int64 // drops that the agent knows of
	slots     [lockItems]item
}

// send empties the queue at every tick and whenever something is urgent. An
// agent whose disk is full keeps its session, as a new one would change
// nothing: what waits is tried again, less and less often.
func (s *Session) send(ctx context.Context, id string, out *outbox, taken func()) error {
	ticker := time.NewTicker(s.config.FlushInterval)
	defer ticker.Stop()
	full, pause := false, firstRetry
	for {
		closing := s.closing.Load()
		tick, urgent := ticker.C, s.urgent
		switch err := s.sendAll(ctx, id, out, taken); {
		case fault.Is(err, fault.Exhausted):
			if !full {
				s.deps.Log.Warn("the agent's disk is full; what is to be reported waits here", "cause", err)
			}
			full = true
			tick, urgent = time.After(pause), nil
			pause = min(2*pause, lastRetry)
		case err != nil:
			return err
		case closing:
			s.allSent()
			<-ctx.Done()
			return nil
		case full:
			s.deps.Log.Info("the agent takes reports again")
			full, pause = false, firstRetry
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick:
		case <-urgent:
		case doubted := <-s.doubted:
			if doubted == id {
				return fault.New(fault.NotFound, "the agent does not know session %s", id)
			}
		}
	}
}

// sendAll makes calls until nothing waits, or one fails.
func (s *Session) sendAll(ctx context.Context, id string, out *outbox, taken func()) error {
	for {
		s.fill(out)
		if len(out.events) == 0 && s.queue.drops() == out.told {
			return nil
		}
		if err := s.sendBatch(ctx, id, out, taken); err != nil {
			return err
		}
	}
}

// fill moves items from the queue into the outbox as events with ids: should
// the call break off, the same ids are sent again. What can never be sent
// counts as dropped; it must not stand in the way of the rest.
func (s *Session) fill(out *outbox) {
	for len(out.events) < batchItems && out.sizeBytes < batchBytes {
		n := s.queue.take(out.slots[:])
		for i := range n {
			event := s.event(&out.slots[i])
			out.slots[i].event = nil
			encoded, err := proto.Marshal(event)
			if err != nil || len(encoded) > batchBytes {
				s.queue.drop(1)
				s.deps.Log.Error("an event cannot be sent", "bytes", len(encoded), "cause", err)
				continue
			}
			out.events = append(out.events, event)
			out.sizeBytes += len(encoded)
		}
		if n < len(out.slots) {
			return
		}
	}
}

// sendBatch makes one call. A batch that the agent refuses for what is in it
// counts as dropped, as it would be refused again.
func (s *Session) sendBatch(ctx context.Context, id string, out *outbox, taken func()) error {
	callCtx, cancel := context.WithTimeout(ctx, s.config.CallTimeout)
	defer cancel()
	drops := s.queue.drops()
	_, err := s.client.Report(callCtx, &trainerv1.ReportRequest{
		SessionId: id, Events: out.events, Dropped: drops - out.told,
	})
	err = fault.FromGRPC(err)
	switch {
	case err == nil:
		out.told = drops
		taken()
	case fault.Is(err, fault.Invalid):
		s.queue.drop(len(out.events))
		s.deps.Log.Error("agent refused events", "events", len(out.events), "cause", err)
	default:
		return err
	}
	clear(out.events)
	out.events, out.sizeBytes = out.events[:0], 0
	return nil
}

// event makes an item's event.
func (s *Session) event(i *item) *commonv1.Event {
	event := i.event
	if event == nil {
		event = &commonv1.Event{Body: &commonv1.Event_Step{Step: i.step.message()}}
		s.stamp(event, i.at)
	}
	if id, err := uuid.NewV7(); err == nil {
		event.EventId = id.String() // else the agent gives it one
	}
	return event
}

// stamp fills in what is empty of an event's whence and when.
func (s *Session) stamp(event *commonv1.Event, at time.Time) {
	defaultTo(&event.RunId, s.config.RunID)
	defaultTo(&event.Attempt, s.attempt.Load())
	defaultTo(&event.Rank, s.config.Rank)
	if event.Time == nil {
		event.Time = timestamppb.New(at)
	}
}
