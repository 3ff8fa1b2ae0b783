package uplink

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vigil-ml/vigil/agent/journal"
	"github.com/vigil-ml/vigil/agent/spool"
	"github.com/vigil-ml/vigil/internal/columns"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/protocol"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		childAgent(dir, os.Getenv(childAddress), os.Getenv(childFrom))
		return
	}
	goleak.VerifyTestMain(m)
}

type serverStream = grpc.BidiStreamingServer[agentv1.ConnectRequest, agentv1.ConnectResponse]

// control is a control plane that remembers what it got. Its fields are set
// before it is started, or through lock.
type control struct {
	agentv1.UnimplementedAgentServiceServer
	revision  uint32
	heartbeat time.Duration
	withhold  bool                                      // do not acknowledge
	opened    func(session int, out serverStream) error // called after Welcome; an error ends the stream

	mu       sync.Mutex
	sessions int
	stream   serverStream // of the last session
	stored   []string     // event ids
	repeats  int
	last     *agentv1.Position
	defs     map[uint32]*agentv1.SeriesDef
	samples  []float64
	blocks   int // frames of samples
	keys     map[sampleKey]bool
	again    int // samples that came again, which a store takes for repeats
	unnamed  int // samples whose series was not defined in the session
	beats    int
}

// sampleKey is what a store knows a sample by.
type sampleKey struct {
	ref    uint32
	timeMS int64
}

func newControl() *control {
	return &control{revision: protocol.Revision, heartbeat: 20 * time.Millisecond, defs: map[uint32]*agentv1.SeriesDef{},
		keys: map[sampleKey]bool{}}
}

// Connect takes frames, stores new ones and acknowledges.
func (c *control) Connect(stream serverStream) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.sessions++
	session, welcome := c.sessions, &agentv1.Welcome{
		Revision: c.revision, SessionId: fmt.Sprint(c.sessions), Events: c.last, HeartbeatInterval: durationpb.New(c.heartbeat),
	}
	c.stream = stream
	c.defs = map[uint32]*agentv1.SeriesDef{}
	c.mu.Unlock()
	if theirs := first.GetHello().GetRevision(); theirs != c.revision {
		return status.Errorf(codes.FailedPrecondition, "agent speaks revision %d, the control plane %d", theirs, c.revision)
	}
	if err := stream.Send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Welcome{Welcome: welcome}}); err != nil {
		return err
	}
	if c.opened != nil {
		if err := c.opened(session, stream); err != nil {
			return err
		}
	}
	for {
		request, err := stream.Recv()
		if err != nil {
			return err
		}
		if ack := c.take(request); ack != nil {
			if err := stream.Send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Ack{Ack: ack}}); err != nil {
				return err
			}
		}
	}
}

func (c *control) take(request *agentv1.ConnectRequest) *agentv1.Ack {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch m := request.Message.(type) {
	case *agentv1.ConnectRequest_Heartbeat:
		c.beats++
	case *agentv1.ConnectRequest_Series:
		for _, def := range m.Series.Series {
			c.defs[def.Ref] = def
		}
	case *agentv1.ConnectRequest_Frame:
		c.store(m.Frame)
		if !c.withhold {
			return &agentv1.Ack{Class: m.Frame.Class, Position: m.Frame.Position}
		}
	}
	return nil
}

func (c *control) store(frame *agentv1.Frame) {
	for i, ref := range frame.GetSamples().GetRefs() { // of an older agent
		c.sample(ref, frame.GetSamples().Values[i])
	}
	points, err := new(columns.Decoder).Append(nil, frame.GetColumns().GetBlock())
	if err != nil && frame.GetColumns() != nil {
		c.unnamed++
	}
	if len(points) > 0 {
		c.blocks++
	}
	for _, p := range points {
		if key := (sampleKey{p.Ref, p.TimeMS}); !c.keys[key] {
			c.keys[key] = true
			c.sample(p.Ref, p.Value)
		} else {
			c.again++
		}
	}
	if frame.GetEvents() == nil {
		return
	}
	if fromProto(frame.Position).Compare(fromProto(c.last)) <= 0 {
		c.repeats++
		return
	}
	c.last = frame.Position
	for _, event := range frame.GetEvents().Events {
		c.stored = append(c.stored, event.EventId)
	}
}

func (c *control) sample(ref uint32, value float64) {
	if c.defs[ref] == nil {
		c.unnamed++
	}
	c.samples = append(c.samples, value)
}

// see reads the control plane's memory.
func see[T any](c *control, read func() T) T {
	c.mu.Lock()
	defer c.mu.Unlock()
	return read()
}

// serve starts the control plane; an empty address takes a free port. Stop
// cuts every stream.
func (c *control) serve(t *testing.T, address string) (at string, stop func()) {
	t.Helper()
	if address == "" {
		address = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	agentv1.RegisterAgentServiceServer(g, c)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Serve(listener)
	}()
	stop = sync.OnceFunc(func() {
		g.Stop()
		<-done
	})
	t.Cleanup(stop)
	return listener.Addr().String(), stop
}

// agent is what is below the uplink.
type agent struct {
	*Uplink
	journal         *journal.Journal
	events, samples *spool.Spool
	log             *syncBuffer
	stop            func()
}

type commandFunc func(ctx context.Context, command *agentv1.Command)

func (f commandFunc) Execute(ctx context.Context, command *agentv1.Command) { f(ctx, command) }

// startAgent runs an uplink over a journal in dir until the test ends.
func startAgent(t *testing.T, dir, address string, commands commandFunc, change func(*Config)) *agent {
	t.Helper()
	a := newAgent(t, dir, address, commands, change)
	group := life.NewGroup(context.Background())
	group.Go("uplink", a.Run)
	a.stop = sync.OnceFunc(func() {
		group.Stop()
		if err := group.Wait(); err != nil {
			t.Errorf("Run: %v", err)
		}
		a.close()
	})
	t.Cleanup(a.stop)
	return a
}

func newAgent(t *testing.T, dir, address string, commands commandFunc, change func(*Config)) *agent {
	t.Helper()
	a, err := build(dir, address, durable.OS{}, commands, change)
	if err != nil {
		t.Fatal(err)
	}
	a.config.Check(func(key, format string, args ...any) { t.Errorf(key+" "+format, args...) })
	return a
}

// build puts an uplink together with a real journal and real spools, as the
// agent does.
func build(dir, address string, disk durable.FS, commands commandFunc, change func(*Config)) (*agent, error) {
	a := &agent{log: &syncBuffer{}}
	reg := prometheus.NewRegistry()
	log := slog.New(slog.NewTextHandler(a.log, nil))
	budget := spool.NewBudget(256 << 20)
	samples := spool.Defaults(filepath.Join(dir, "samples"))
	samples.SyncInterval, samples.SegmentBytes = 5*time.Second, 64<<10
	var err error
	if a.samples, err = spool.Open(samples, spool.Deps{Class: "samples", FS: disk, Budget: budget}); err != nil {
		return nil, err
	}
	a.events, err = spool.Open(spool.Defaults(filepath.Join(dir, "events")), spool.Deps{Class: "events", FS: disk, Budget: budget, Yields: a.samples})
	if err != nil {
		return nil, err
	}
	a.journal, err = journal.Open(journal.Defaults(filepath.Join(dir, "journal")), journal.Deps{
		Node: "n1", Events: a.events, Samples: a.samples, FS: disk, Log: log,
		Metrics: reg, Tracer: noop.NewTracerProvider().Tracer(""), Clock: time.Now,
	})
	if err != nil {
		return nil, err
	}
	config := Defaults()
	config.BatchInterval = 50 * time.Millisecond
	config.Address, config.BackoffMin, config.BackoffMax = address, time.Millisecond, 20*time.Millisecond
	if change != nil {
		change(&config)
	}
	a.Uplink = New(config, Deps{
		Events: a.events, Samples: a.samples, Series: a.journal, Commands: commands, Log: log, Metrics: reg,
		Hello:     func() *agentv1.Hello { return &agentv1.Hello{Node: "n1"} },
		Heartbeat: func() *agentv1.Heartbeat { return &agentv1.Heartbeat{} },
	})
	return a, nil
}

func (a *agent) close() {
	_ = a.journal.Close()
	_ = a.events.Close()
	_ = a.samples.Close()
}

// report records events numbered from one number to another, and gives their
// ids.
func (a *agent) report(t *testing.T, from, to int) (ids []string) {
	t.Helper()
	for i := from; i <= to; i++ {
		id := fmt.Sprintf("event-%04d", i)
		if err := a.journal.Events(t.Context(), "run", &commonv1.Event{EventId: id}); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	return ids
}

// syncBuffer is a log that several goroutines may write.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
