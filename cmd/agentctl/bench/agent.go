package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/internal/columns"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/pki"
	"github.com/vigil-ml/vigil/internal/protocol"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// agent is one simulated agent. Its frames wait until they are acknowledged, so
// that none is lost when its connection breaks.
type agent struct {
	name   string
	epoch  uint64
	walk   *walk
	member pki.Member // from the first connection on

	mu       sync.Mutex
	events   lane
	samples  lane
	acked    chan struct{} // has room for one: something was acknowledged
	onAck    func(time.Duration)
	eventIDs int
}

// lane is the frames of one class that wait.
type lane struct {
	sequence uint64
	waiting  []waiting
}

// waiting is a frame that is not acknowledged.
type waiting struct {
	frame *agentv1.Frame
	sent  time.Time
}

func newAgent(name string, w *walk, onAck func(time.Duration)) *agent {
	return &agent{name: name, epoch: uint64(time.Now().Unix()), walk: w, acked: make(chan struct{}, 1), onAck: onAck}
}

// add makes a frame that waits.
func (a *agent) add(to *lane, frame *agentv1.Frame) *agentv1.Frame {
	a.mu.Lock()
	defer a.mu.Unlock()
	to.sequence++
	frame.Position = &agentv1.Position{Epoch: a.epoch, Sequence: to.sequence}
	to.waiting = append(to.waiting, waiting{frame, time.Now()})
	return frame
}

// ack takes what is acknowledged off.
func (a *agent) ack(ack *agentv1.Ack) {
	a.mu.Lock()
	l := &a.samples
	if ack.GetClass() == agentv1.FrameClass_FRAME_CLASS_EVENTS {
		l = &a.events
	}
	n := 0
	for n < len(l.waiting) && l.waiting[n].frame.Position.Sequence <= ack.GetPosition().GetSequence() {
		if a.onAck != nil {
			a.onAck(time.Since(l.waiting[n].sent))
		}
		n++
	}
	l.waiting = l.waiting[n:]
	a.mu.Unlock()
	select {
	case a.acked <- struct{}{}:
	default:
	}
}

// unacked gives how many frames wait.
func (a *agent) unacked() (events, samples int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.events.waiting), len(a.samples.waiting)
}

// again gives the frames of a lane that wait, to be sent once more.
func (a *agent) again(l *lane) []*agentv1.Frame {
	a.mu.Lock()
	defer a.mu.Unlock()
	var frames []*agentv1.Frame
	for _, w := range l.waiting {
		frames = append(frames, w.frame)
	}
	return frames
}

// link is one connection of an agent.
type link struct {
	conn      *grpc.ClientConn
	stream    agentv1.AgentService_ConnectClient
	heartbeat time.Duration
	ended     chan struct{}
	end       context.CancelFunc
}

// connect opens a connection, says hello, and sends what waits. Acknowledgements
// are taken by a task of the group until the link is closed.
func (a *agent) connect(ctx context.Context, group starter, address string) (*link, error) {
	if err := a.join(ctx, address); err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(credentials.NewTLS(a.member.TLS())),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: protocol.ConnectTimeout}),
		grpc.WithReadBufferSize(4<<10), grpc.WithWriteBufferSize(4<<10))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	l := &link{conn: conn, ended: make(chan struct{}), end: cancel}
	if err := a.hello(ctx, l); err != nil {
		cancel()
		return nil, errors.Join(err, conn.Close())
	}
	group.Go("acknowledgements of "+a.name, func(context.Context) error {
		defer close(l.ended)
		for {
			answer, err := l.stream.Recv()
			if err != nil {
				return nil // whoever sends next sees it
			}
			if ack := answer.GetAck(); ack != nil {
				a.ack(ack)
			}
		}
	})
	for _, frames := range [][]*agentv1.Frame{a.again(&a.events), a.again(&a.samples)} {
		for _, frame := range frames {
			if err := l.frame(frame); err != nil {
				l.close()
				return nil, err
			}
		}
	}
	return l, nil
}

// join gets the agent its certificate, if it has none.
func (a *agent) join(ctx context.Context, address string) (err error) {
	if a.member.Cert == nil {
		a.member, err = pki.JoinHere(ctx, address, a.name)
	}
	return err
}

// starter starts tasks; life.Group does.
type starter interface {
	// Go starts a task.
	Go(name string, run func(context.Context) error)
}

func (a *agent) hello(ctx context.Context, l *link) (err error) {
	if l.stream, err = agentv1.NewAgentServiceClient(l.conn).Connect(ctx); err != nil {
		return err
	}
	err = l.stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Hello{Hello: &agentv1.Hello{
		Revision: protocol.Revision, Node: a.name, BootId: a.name, Version: "bench", MaxMessageBytes: 8 << 20,
	}}})
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	answer, err := l.stream.Recv()
	if err != nil {
		return err
	}
	welcome := answer.GetWelcome()
	if welcome == nil {
		return fault.New(fault.Unavailable, "connect %s: the control plane answered %T", a.name, answer.GetMessage())
	}
	l.heartbeat = welcome.GetHeartbeatInterval().AsDuration()
	if p := welcome.GetEvents(); p.GetEpoch() == a.epoch { // what it has already
		a.ack(&agentv1.Ack{Class: agentv1.FrameClass_FRAME_CLASS_EVENTS, Position: p})
	}
	if a.walk == nil {
		return nil
	}
	return l.stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Series{
		Series: &agentv1.SeriesDefs{Series: a.walk.defs()},
	}})
}

// close breaks the connection and waits for what reads it.
func (l *link) close() {
	l.end()
	_ = l.conn.Close()
	<-l.ended
}

func (l *link) frame(frame *agentv1.Frame) error {
	return l.stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Frame{Frame: frame}})
}

func (l *link) beat() error {
	return l.stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Heartbeat{
		Heartbeat: &agentv1.Heartbeat{Time: timestamppb.Now(), Collectors: map[string]string{"nvml": "ok", "host": "ok", "nv": "ok"}},
	}})
}

// report makes an event about the node, as agents do each ten seconds.
func (a *agent) report() *agentv1.Frame {
	a.eventIDs++
	event := &commonv1.Event{
		EventId: fmt.Sprintf("%s-%d-%d", a.name, a.epoch, a.eventIDs), Time: timestamppb.Now(), Node: a.name,
		Body: &commonv1.Event_NodeReport{NodeReport: &commonv1.NodeReport{}},
	}
	return a.add(&a.events, &agentv1.Frame{
		Class:   agentv1.FrameClass_FRAME_CLASS_EVENTS,
		Payload: &agentv1.Frame_Events{Events: &agentv1.EventBatch{Events: []*commonv1.Event{event}}},
	})
}

// block makes a frame of some steps of all series, the last one at a time.
func (a *agent) block(encoder *columns.Encoder, points []columns.Point) *agentv1.Frame {
	return a.add(&a.samples, &agentv1.Frame{
		Class:   agentv1.FrameClass_FRAME_CLASS_SAMPLES,
		Payload: &agentv1.Frame_Columns{Columns: &agentv1.SampleColumns{Block: encoder.Append(nil, points)}},
	})
}
