package ingest

import (
	"context"
	"sync"

	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
)

// settling is which of a session's event frames are on the bus and wait until
// they are durable. The session takes more meanwhile: however long a sync of the
// disk takes, and whatever else the machine does, all that came by then shares the
// next one.
type settling struct {
	mu       sync.Mutex
	position *agentv1.Position // of the last frame that waits; nil when none does
	sequence uint64            // of that frame on the bus
	busy     bool              // a worker is at it
	done     sync.WaitGroup    // by that worker
}

// settle acknowledges a frame, and all before it, once it is durable.
func (x *session) settle(ctx context.Context, position *agentv1.Position, sequence uint64) {
	s := &x.settling
	s.mu.Lock()
	defer s.mu.Unlock()
	s.position, s.sequence = position, max(s.sequence, sequence)
	if s.busy {
		return
	}
	s.busy = true
	s.done.Add(1)
	if !x.workers.Go(func() { x.settleAll(ctx) }) {
		s.busy = false // nothing is acknowledged anymore: it comes again
		s.done.Done()
	}
}

// settleAll goes on until no frame waits.
func (x *session) settleAll(ctx context.Context) {
	s := &x.settling
	defer s.done.Done()
	for {
		s.mu.Lock()
		position, sequence := s.position, s.sequence
		if s.position = nil; position == nil {
			s.busy = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		err := x.deps.Bus.Settle(ctx, sequence)
		if err == nil {
			err = x.acknowledge(agentv1.FrameClass_FRAME_CLASS_EVENTS, position)
		}
		if err != nil {
			x.fail(err)
		}
	}
}

// fail ends the session, unless it has ended.
func (x *session) fail(why error) {
	x.sending.Lock()
	defer x.sending.Unlock()
	if !x.closed {
		x.end(why)
	}
}

func (x *session) acknowledge(class agentv1.FrameClass, position *agentv1.Position) error {
	ack := &agentv1.Ack{Class: class, Position: position}
	return x.send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Ack{Ack: ack}})
}
