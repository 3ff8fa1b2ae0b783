package trainer

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

const (
	firstRetry = 20 * time.Millisecond
	lastRetry  = time.Second
)

// keepConnected meets the agent again and again until ctx ends, or until
// another process took the rank over: fighting for it would help nobody. It
// closes tried after the first attempt, good or bad. An agent counts as back
// when it has taken a report: one that only registers would be met in vain
// again and again.
func (s *Session) keepConnected(ctx context.Context, tried chan<- struct{}) error {
	defer close(s.over)
	var (
		out    outbox
		wait   = firstRetry
		silent bool // the agent's absence was said already
	)
	for ctx.Err() == nil {
		err := s.connectOnce(ctx, &out, func() {
			if tried != nil {
				close(tried)
				tried = nil
			}
		}, func(node string) {
			if silent {
				s.deps.Log.Info("the agent answers", "node", node, "socket", s.config.Socket)
			}
			wait, silent = firstRetry, false
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
// It calls up when the session stands and taken after every report that the
// agent took. What could not be sent stays in out.
func (s *Session) connectOnce(ctx context.Context, out *outbox, up func(), taken func(node string)) error {
	s.conn.ResetConnectBackoff()
	callCtx, cancel := context.WithTimeout(ctx, s.config.CallTimeout)
	welcome, err := s.client.Register(callCtx, s.registration())
	cancel()
	if err != nil {
		return fault.FromGRPC(err)
	}
	ready := func() {
		s.link.up(welcome)
		up()
	}
	send := life.Task{Name: "send", Run: func(ctx context.Context) error {
		return s.send(ctx, welcome.GetSessionId(), out, func() { taken(welcome.GetNode()) })
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
