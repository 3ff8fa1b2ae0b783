package uplink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/agent/spool"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/protocol"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
)

const (
	maxMessageBytes  = 4 << 20
	connBytes        = 4 << 10
	defaultHeartbeat = 5 * time.Second
	minHeartbeat     = 10 * time.Millisecond
	// The server must allow pings this often (keepalive.EnforcementPolicy).
	pingInterval = 30 * time.Second
	pingTimeout  = 10 * time.Second
)

// session is one stream.
type session struct {
	*Uplink
	stream  grpc.BidiStreamingClient[agentv1.ConnectRequest, agentv1.ConnectResponse]
	cancel  context.CancelCauseFunc // ends the stream
	welcome *agentv1.Welcome
	events  *lane
	samples *lane
	acked   atomic.Bool

	sending sync.Mutex // grpc allows one Send at a time
}

// session opens a stream and works it until it ends. Progress says that the
// control plane acknowledged something.
func (u *Uplink) session(ctx context.Context) (progress bool, err error) {
	how := insecure.NewCredentials()
	if u.deps.Credentials != nil {
		if how, err = u.deps.Credentials(ctx); err != nil {
			return false, fmt.Errorf("dial control plane: %w", err)
		}
	}
	conn, err := grpc.NewClient("passthrough:///"+u.address(),
		grpc.WithTransportCredentials(how),
		// What comes down is small, and what goes up is one frame at a time.
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: protocol.ConnectTimeout}),
		grpc.WithReadBufferSize(connBytes),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingInterval, Timeout: pingTimeout}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes)))
	if err != nil {
		return false, fmt.Errorf("dial control plane: %w", err)
	}
	defer func() { _ = conn.Close() }()
	streamCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &session{Uplink: u, cancel: cancel}
	if err := s.open(streamCtx, conn); err != nil {
		return false, cause(streamCtx, err)
	}
	if u.complaint == "" {
		u.deps.Log.Info("connected to control plane", "session", s.welcome.SessionId)
	}
	u.sessions.Inc()
	u.setConnected(true)
	u.conn.Store(conn)
	defer func() {
		u.conn.Store(nil)
		u.setConnected(false)
	}()
	err = life.All(streamCtx,
		life.Task{Name: "receive", Run: s.receive},
		life.Task{Name: "send events", Run: s.sendEvents},
		life.Task{Name: "send samples", Run: s.sendSamples},
		life.Task{Name: "send heartbeats", Run: s.sendHeartbeats},
		life.Task{Name: "watch acknowledgements", Run: s.watch},
	)
	if s.acked.Load() {
		// Only now: a control plane that welcomes and then refuses this agent
		// would be complained of at each try.
		u.complaint = ""
	}
	return s.acked.Load(), cause(streamCtx, err)
}

// cause prefers why a stream was ended to what the end looked like.
func cause(ctx context.Context, err error) error {
	if why := context.Cause(ctx); why != nil && !errors.Is(why, context.Canceled) {
		return why
	}
	return err
}

func (u *Uplink) setConnected(yes bool) {
	u.connected.Store(yes)
	if yes {
		u.up.Set(1)
	} else {
		u.up.Set(0)
	}
}

// open says Hello and takes Welcome.
func (s *session) open(ctx context.Context, conn *grpc.ClientConn) error {
	late := time.AfterFunc(s.config.AckTimeout, func() {
		s.cancel(fault.New(fault.Deadline, "open session: no Welcome within %v", s.config.AckTimeout))
	})
	defer late.Stop()
	stream, err := agentv1.NewAgentServiceClient(conn).Connect(ctx)
	if err != nil {
		return fmt.Errorf("open session: %w", fromServer(err))
	}
	s.stream = stream
	hello := s.deps.Hello()
	if hello.Revision == 0 {
		hello.Revision = protocol.Revision
	}
	if hello.MaxMessageBytes == 0 {
		hello.MaxMessageBytes = maxMessageBytes
	}
	// A failed Send says nothing; Recv has the reason.
	_ = stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Hello{Hello: hello}})
	first, err := stream.Recv()
	if err != nil {
		return fmt.Errorf("open session: %w", s.streamEnd(err))
	}
	if s.welcome = first.GetWelcome(); s.welcome == nil {
		return fault.New(fault.Internal, "open session: the first answer is %T, not Welcome", first.Message)
	}
	if s.deps.Settings != nil {
		s.deps.Settings(s.welcome.Settings)
	}
	return s.resume()
}

// resume finds where each class goes on.
func (s *session) resume() error {
	durable, last := fromProto(s.welcome.Events), s.deps.Events.Last()
	if durable.Compare(last) > 0 {
		return fault.WithHint(fault.New(fault.Precondition,
			"open session: the control plane has event frame %v of this node, but the last here is %v", durable, last),
			"two agents use one node name, or the spool was put back from a copy")
	}
	if err := s.deps.Events.Acknowledge(durable); err != nil {
		return fmt.Errorf("open session: %w", err)
	}
	s.events = newLane(s.deps.Events, agentv1.FrameClass_FRAME_CLASS_EVENTS, s.config.MaxInFlight)
	s.samples = newLane(s.deps.Samples, agentv1.FrameClass_FRAME_CLASS_SAMPLES, s.config.MaxInFlight)
	return nil
}

// streamEnd gives a stream's end its kind and the server's own text.
func (s *session) streamEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return fault.New(fault.Unavailable, "the control plane closed the stream")
	}
	return fromServer(protocol.EndOf(s.stream, err))
}

// send sends one message. When the stream has ended it waits for receive to
// say why.
func (s *session) send(ctx context.Context, message *agentv1.ConnectRequest) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	err := s.stream.Send(message)
	if errors.Is(err, io.EOF) {
		<-ctx.Done()
		return ctx.Err()
	}
	if err != nil {
		return fromServer(err)
	}
	return nil
}

func (s *session) receive(context.Context) error {
	for {
		response, err := s.stream.Recv()
		if err != nil {
			return s.streamEnd(err)
		}
		switch m := response.Message.(type) {
		case *agentv1.ConnectResponse_Ack:
			if err := s.acknowledge(m.Ack); err != nil {
				return err
			}
		case *agentv1.ConnectResponse_Command:
			s.accept(m.Command)
		case *agentv1.ConnectResponse_Settings:
			if s.deps.Settings != nil {
				s.deps.Settings(m.Settings)
			}
		case *agentv1.ConnectResponse_Drain:
			return newDrained(m.Drain)
		default:
			// A later control plane may say more than this agent knows.
			s.deps.Log.Debug("message is not known", "type", fmt.Sprintf("%T", m))
		}
	}
}

func (s *session) acknowledge(ack *agentv1.Ack) error {
	for _, lane := range []*lane{s.events, s.samples} {
		if lane.class == ack.Class {
			if !s.acked.Swap(true) && s.complaint != "" {
				s.deps.Log.Info("control plane takes telemetry again", "session", s.welcome.SessionId)
			}
			return lane.acknowledge(fromProto(ack.Position))
		}
	}
	return fault.New(fault.Internal, "acknowledgement of class %v", ack.Class)
}

func (s *session) sendEvents(ctx context.Context) error {
	return s.events.each(ctx, s.deps.Log, func(frame *agentv1.Frame) error {
		return s.send(ctx, &agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Frame{Frame: frame}})
	})
}

func (s *session) sendHeartbeats(ctx context.Context) error {
	interval := defaultHeartbeat
	if asked := s.welcome.HeartbeatInterval.AsDuration(); asked > 0 {
		interval = max(asked, minHeartbeat)
	}
	for {
		beat := s.deps.Heartbeat()
		if err := s.send(ctx, &agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Heartbeat{Heartbeat: beat}}); err != nil {
			return err
		}
		if !life.InStep(ctx, interval) {
			return nil
		}
	}
}

// watch ends the stream when the session ends or when frames wait too long for
// an acknowledgement.
func (s *session) watch(ctx context.Context) error {
	defer s.cancel(nil)
	for life.InStep(ctx, s.config.AckTimeout/3) {
		for _, lane := range []*lane{s.events, s.samples} {
			if lane.stalled() > s.config.AckTimeout {
				err := fault.New(fault.Deadline, "no acknowledgement of %v for %v", lane.class, s.config.AckTimeout)
				s.cancel(err)
				return err
			}
		}
	}
	return nil
}

func fromProto(p *agentv1.Position) spool.Position {
	return spool.Position{Epoch: p.GetEpoch(), Sequence: p.GetSequence()}
}

func toProto(p spool.Position) *agentv1.Position {
	return &agentv1.Position{Epoch: p.Epoch, Sequence: p.Sequence}
}

// decode makes a frame of a record.
func decode(record spool.Record, class agentv1.FrameClass) (*agentv1.Frame, error) {
	frame := &agentv1.Frame{}
	if err := proto.Unmarshal(record.Payload, frame); err != nil {
		return nil, fmt.Errorf("decode frame %v: %w", record.Position, err)
	}
	if frame.Class != class {
		return nil, fault.New(fault.Corrupt, "decode frame %v: it is of class %v", record.Position, frame.Class)
	}
	frame.Position = toProto(record.Position)
	return frame, nil
}
