package trainer

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

const (
	firstRetry = 20 * time.Millisecond
	lastRetry  = time.Second
	batchItems = 1024 // events in one call
	batchBytes = 1 << 20
	lockItems  = 32 // items copied under the queue's lock at a time
)

// keepConnected meets the agent again and again until ctx ends, or until
// another process took the rank over: fighting for it would help nobody. It
// closes tried after the first attempt, good or bad.
func (s *Session) keepConnected(ctx context.Context, tried chan<- struct{}) error {
	defer close(s.over)
	var (
		out    outbox
		wait   = firstRetry
		silent bool // the agent's absence was said already
	)
	for ctx.Err() == nil {
		err := s.connectOnce(ctx, &out, func(node string) {
			if silent {
				s.deps.Log.Info("the agent answers", "node", node, "socket", s.config.Socket)
			}
			wait, silent = firstRetry, false
			if tried != nil {
				close(tried)
				tried = nil
			}
		})
		s.link.down()
		if tried != nil {
			close(tried)
			tried = nil
		}
		if ctx.Err() != nil {
			break
		}
		if fault.Is(err, fault.Precondition) {
			s.deps.Log.Error("another process registered for the same run and rank; this one is not watched any more", "cause", err)
			return nil
		}
		if !silent && !fault.Is(err, fault.NotFound) { // the agent was restarted, and answers
			silent = true
			s.deps.Log.Warn("no answer from the agent; training goes on, and so does the search for it",
				"socket", s.config.Socket, "cause", err)
		}
		life.Sleep(ctx, wait)
		wait = min(2*wait, lastRetry)
	}
	return nil
}

// connectOnce registers, and then sends and watches until one of both fails.
// What could not be sent stays in out.
func (s *Session) connectOnce(ctx context.Context, out *outbox, up func(node string)) error {
	s.conn.ResetConnectBackoff()
	callCtx, cancel := context.WithTimeout(ctx, s.config.CallTimeout)
	welcome, err := s.client.Register(callCtx, s.registration())
	cancel()
	if err != nil {
		return fault.FromGRPC(err)
	}
	ready := func() {
		s.link.up(welcome)
		up(welcome.GetNode())
	}
	send := life.Task{Name: "send", Run: func(ctx context.Context) error {
		return s.send(ctx, welcome.GetSessionId(), out)
	}}
	if !s.watches() {
		ready()
		return life.All(ctx, send)
	}
	streamCtx, end := context.WithCancel(ctx)
	defer end()
	directives, err := s.openWatch(streamCtx, end, welcome.GetSessionId())
	if err != nil {
		return err
	}
	ready()
	return life.All(ctx, send, life.Task{Name: "watch", Run: func(ctx context.Context) error {
		defer context.AfterFunc(ctx, end)()
		return s.watch(ctx, directives)
	}})
}

// openWatch asks for directives and waits for the word that the watch is in
// place: an order that is given after it cannot be missed.
func (s *Session) openWatch(ctx context.Context, end func(), id string) (grpc.ServerStreamingClient[trainerv1.WatchDirectivesResponse], error) {
	late := time.AfterFunc(s.config.CallTimeout, end)
	defer late.Stop()
	directives, err := s.client.WatchDirectives(ctx, &trainerv1.WatchDirectivesRequest{SessionId: id})
	if err != nil {
		return nil, fault.FromGRPC(err)
	}
	first, err := directives.Recv()
	if err != nil {
		return nil, fault.FromGRPC(err)
	}
	s.direct(ctx, first.GetDirective())
	return directives, nil
}

// watch takes directives as they come.
func (s *Session) watch(ctx context.Context, directives grpc.ServerStreamingClient[trainerv1.WatchDirectivesResponse]) error {
	for {
		next, err := directives.Recv()
		if errors.Is(err, io.EOF) {
			return fault.New(fault.Unavailable, "watch directives: the agent ended the watch")
		}
		if err != nil {
			return fault.FromGRPC(err)
		}
		s.direct(ctx, next.GetDirective())
	}
}

// outbox is what has left the queue and is not yet on the agent's disk. It
// belongs to the one task that sends.
type outbox struct {
	events    []*commonv1.Event
	sizeBytes int   // of events
	told      int64 // drops that the agent knows of
	slots     [lockItems]item
}

// send empties the queue at every tick and whenever something is urgent.
func (s *Session) send(ctx context.Context, id string, out *outbox) error {
	tick := time.NewTicker(s.config.FlushInterval)
	defer tick.Stop()
	for {
		for {
			closing := s.closing.Load()
			s.fill(out)
			if len(out.events) == 0 && s.queue.drops() == out.told {
				if closing {
					s.allSent()
					<-ctx.Done()
					return nil
				}
				break
			}
			if err := s.sendBatch(ctx, id, out); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-s.urgent:
		case doubted := <-s.doubted:
			if doubted == id {
				return fault.New(fault.NotFound, "the agent does not know session %s", id)
			}
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
func (s *Session) sendBatch(ctx context.Context, id string, out *outbox) error {
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
