package ingest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"

	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"

	"github.com/vigil-ml/vigil/controlplane/load"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/protocol"
)

// errDrained is why a stream ends whose agent was sent away.
var errDrained = fault.New(fault.Canceled, "this control plane stops, and sent the agent away")

// session is one stream behind its Hello. Its goroutine alone uses it, or the
// worker that it waits for, but for what send and drain use.
type session struct {
	*Service
	stream stream
	end    func(why error) // ends the stream's context, and thereby Recv

	release func() // has the fleet forget the session; nil until it knows it

	taking  sync.Mutex // held while a message is taken
	sending sync.Mutex // grpc allows one Send at a time
	closed  bool       // nothing can be sent anymore; under sending

	known    *told       // what Welcome told the agent
	unfollow func() bool // ends follow; under sending

	id      string
	node    string
	durable *agentv1.Position // of the event frame that is known to be stored
	written uint64            // its sequence on the bus, where this session wrote it

	eventsSeen, samplesSeen *agentv1.Position // the last frame of each class that came
	settling                settling
	scratch                 *buffers // while a frame of samples is taken
	series                  map[uint32]series
	seed                    maphash.Seed // of their definitions' hashes
	warned                  bool         // that the agent names series that it did not define
	held                    bool         // samples came that were not taken, for want of memory
}

// open makes the session known to the fleet and welcomes the agent. Nothing is
// sent before Welcome, and nothing in place of it.
func (x *session) open(hello *agentv1.Hello) (live context.Context, err error) {
	x.sending.Lock()
	defer x.sending.Unlock()
	x.workers.Do(func() { live, x.release = x.deps.Fleet.Connected(x.stream.Context(), hello, x.send) })
	x.workers.Do(func() { err = x.welcome(live) })
	x.closed = err != nil
	return live, err
}

// run works the session until the stream ends, a newer session of the node takes
// over, the control plane goes away, or the agent sends what it must not.
func (x *session) run(live context.Context) error {
	taken := context.AfterFunc(live, func() { x.end(context.Cause(live)) })
	defer taken()
	stay := x.whenGoing(x.drain)
	defer stay()
	x.follow(x.known)
	for {
		request, err := x.stream.Recv()
		if err == nil {
			err = x.work(live, request)
		}
		if err == nil {
			continue
		}
		if live.Err() != nil {
			err = context.Cause(live)
		}
		if err = whyEnded(x.stream.Context(), err); errors.Is(err, errDrained) {
			return nil
		}
		return err
	}
}

// work has a worker answer a message, when there is room for that.
func (x *session) work(live context.Context, request *agentv1.ConnectRequest) error {
	x.Service.frames.Add(1)
	defer x.Service.frames.Add(-1)
	if err := x.reserve(live, request); err != nil {
		return err
	}
	defer x.free()
	var err error
	x.workers.Do(func() { err = x.answer(live, request) })
	return err
}

// answer takes a message.
func (x *session) answer(ctx context.Context, request *agentv1.ConnectRequest) error {
	x.taking.Lock()
	defer x.taking.Unlock()
	err := x.take(ctx, request)
	if err != nil { // what was taken before it is acknowledged
		x.settling.done.Wait()
	}
	return err
}

// drain sends the agent away, once the message that is being taken is, and all
// that was taken is acknowledged.
func (x *session) drain() {
	x.taking.Lock()
	defer x.taking.Unlock()
	x.settling.done.Wait()
	_ = x.send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Drain{
		Drain: &agentv1.Drain{ReconnectAfter: durationpb.New(x.config.ReconnectAfter)},
	}}) // where it fails the agent is gone
	x.end(errDrained)
}

// welcome tells the agent where its events go on. It is called with sending held.
func (x *session) welcome(ctx context.Context) (err error) {
	if x.durable, err = x.deps.Bus.Last(ctx, x.node); err != nil {
		return err
	}
	x.known = x.told.Load()
	x.deps.Log.Info("agent connected", "node", x.node, "session", x.id, "events_from", position(x.durable))
	return x.stream.Send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Welcome{Welcome: &agentv1.Welcome{
		Revision:          protocol.Revision,
		SessionId:         x.id,
		Events:            x.durable,
		HeartbeatInterval: durationpb.New(x.config.HeartbeatInterval),
		Settings:          x.known.settings,
	}}})
}

// send sends a message. It fails with [fault.Unavailable] once the session has
// ended. It is safe for concurrent use.
func (x *session) send(response *agentv1.ConnectResponse) error {
	x.sending.Lock()
	defer x.sending.Unlock()
	if x.closed {
		return fault.New(fault.Unavailable, "send to node %s: its session has ended", x.node)
	}
	if err := x.stream.Send(response); err != nil {
		return fault.New(fault.Unavailable, "send to node %s: %w", x.node, err)
	}
	return nil
}

// close has the fleet forget the session, and what is sent from now on fail: a
// stream whose handler has returned is not to be used.
func (x *session) close() {
	if x.release != nil {
		x.workers.Do(x.release)
	}
	x.sending.Lock()
	defer x.sending.Unlock()
	x.closed = true
	if x.unfollow != nil {
		x.unfollow()
	}
}

func (x *session) take(ctx context.Context, request *agentv1.ConnectRequest) error {
	if x.held && x.deps.Load.Level() == load.Normal {
		return fault.WithRetry(fault.New(fault.Exhausted, "samples that were not taken for want of memory can be sent again now"), x.config.ReconnectAfter)
	}
	switch m := request.Message.(type) {
	case *agentv1.ConnectRequest_Frame:
		return x.frame(ctx, m.Frame)
	case *agentv1.ConnectRequest_Series:
		return x.define(m.Series)
	case *agentv1.ConnectRequest_Heartbeat:
		if err := x.deps.Fleet.Heartbeat(x.node, m.Heartbeat); err != nil {
			x.deps.Log.Warn("heartbeat is lost", "node", x.node, "error", err)
		}
		return nil
	case *agentv1.ConnectRequest_Hello:
		return fault.New(fault.Invalid, "Hello came twice on one stream")
	default:
		return nil // of a later agent, which gets along without an answer
	}
}

// frame takes one frame. The positions of each class must ascend, since an
// acknowledgement covers all frames before it.
func (x *session) frame(ctx context.Context, frame *agentv1.Frame) error {
	var seen **agentv1.Position
	var store func(context.Context, *agentv1.Frame) (result string, err error)
	switch frame.GetClass() {
	case agentv1.FrameClass_FRAME_CLASS_EVENTS:
		seen, store = &x.eventsSeen, x.storeEvents
	case agentv1.FrameClass_FRAME_CLASS_SAMPLES:
		seen, store = &x.samplesSeen, x.storeSamples
	default:
		x.frameCount.WithLabelValues(className(frame), resultRefused).Inc()
		return fault.New(fault.Invalid, "frame %s is of class %d, which is not known", at(frame), frame.GetClass())
	}
	if taken, err := x.room(frame.GetClass()); !taken {
		x.frameCount.WithLabelValues(className(frame), resultHeld).Inc()
		return err
	}
	result, err := resultRefused, inOrder(*seen, frame)
	if err == nil {
		result, err = store(ctx, frame)
	}
	if fault.Is(err, fault.Unavailable) || (err != nil && ctx.Err() != nil) {
		return err // not the frame's fault: it comes again
	}
	// What is stored counts as stored, also when the session has ended meanwhile:
	// the next one's Welcome says so, and it does not come again.
	x.frameCount.WithLabelValues(className(frame), result).Inc()
	if err != nil {
		return err
	}
	*seen = frame.Position
	if frame.Class == agentv1.FrameClass_FRAME_CLASS_EVENTS {
		x.settle(ctx, frame.Position, x.written)
		return nil
	}
	return x.acknowledge(frame.Class, frame.Position)
}

// room tells whether there is memory for a frame. Samples for which there is none
// are left to the agent, and so are those behind them, since an acknowledgement
// would cover them all; events end the session.
func (x *session) room(class agentv1.FrameClass) (taken bool, err error) {
	if class == agentv1.FrameClass_FRAME_CLASS_SAMPLES {
		x.held = x.held || x.deps.Load.Admit(load.Samples) != nil
		return !x.held, nil
	}
	err = x.deps.Load.Admit(load.Events)
	return err == nil, err
}

func inOrder(seen *agentv1.Position, frame *agentv1.Frame) error {
	switch p := frame.Position; {
	case p.GetEpoch() == 0 || p.GetSequence() == 0:
		return fault.New(fault.Invalid, "%s frame has position %s; epoch and sequence begin at 1", className(frame), at(frame))
	case compare(p, seen) <= 0:
		return fault.New(fault.Invalid, "%s frame %s came behind %d/%d; send frames in the order of their positions",
			className(frame), at(frame), seen.GetEpoch(), seen.GetSequence())
	}
	return nil
}

func compare(a, b *agentv1.Position) int {
	return cmp.Or(cmp.Compare(a.GetEpoch(), b.GetEpoch()), cmp.Compare(a.GetSequence(), b.GetSequence()))
}

// at is a frame's position in words.
func at(frame *agentv1.Frame) string { return position(frame.GetPosition()) }

// position is a position in words; that of a node of which nothing is stored is
// 0/0.
func position(p *agentv1.Position) string {
	return fmt.Sprintf("%d/%d", p.GetEpoch(), p.GetSequence())
}

// className is a frame's class as metrics and messages have it.
func className(frame *agentv1.Frame) string {
	switch frame.GetClass() {
	case agentv1.FrameClass_FRAME_CLASS_EVENTS:
		return "events"
	case agentv1.FrameClass_FRAME_CLASS_SAMPLES:
		return "samples"
	default:
		return "unknown"
	}
}
