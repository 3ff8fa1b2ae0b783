// Package ingest is the control plane's end of the agents' streams. It takes
// their frames, has them stored, and acknowledges what is stored.
//
// Each stream is one session, worked by one goroutine that receives and, with a
// worker's help, takes one message after the other. A sample frame is acknowledged
// when the TSDB has it, an event frame when the bus has made it durable, for which
// the next one does not wait: one sync of the disk is for all that came before it.
//
// When memory is short (package load) a session takes events and leaves samples
// unacknowledged, until there is memory again: then it ends with
// RESOURCE_EXHAUSTED and the time after which to connect, and the agent sends
// them again. When memory is nearly gone, events end the session likewise, and
// new ones are refused.
//
// What an agent should not have sent is counted, and then: a frame out of order
// and an event frame that cannot be stored end the session with an error that
// says why, unacknowledged, since no event may be lost silently. A sample that
// cannot be stored, for instance of a series that nobody defined, is refused by
// itself and its frame acknowledged: sending it again would not mend it, and
// would keep the node's events from coming through.
package ingest

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/tap"

	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"

	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/controlplane/load"
	"github.com/vigil-ml/vigil/controlplane/metrics"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/protocol"
)

const (
	helloTimeout = 10 * time.Second
	// maxMessageBytes is more than the bus takes, so that the sender of a frame
	// that is too big learns which one it is.
	maxMessageBytes = bus.MaxBatchBytes + 1<<20

	bufferBytes = 4 << 10

	pingInterval    = 30 * time.Second
	pingTimeout     = 10 * time.Second
	minPingInterval = 10 * time.Second
)

// Config is what users say about the agents' streams.
type Config struct {
	// HeartbeatInterval is how often an agent says how it is; >= 100ms.
	HeartbeatInterval time.Duration `yaml:"heartbeat_interval"`
	// ReconnectAfter is how long agents wait when the control plane goes away;
	// >= 0.
	ReconnectAfter time.Duration `yaml:"reconnect_after"`
	// MaxSeries is how many series one session may define; >= 1.
	MaxSeries int `yaml:"max_series"`
	// Collectors is laid over every agent's own configuration, by kind. It is what
	// [Service.SetCollectors] changes.
	Collectors map[string]Collector `yaml:"collectors"`
}

// Collector is what every agent's collector of a kind does, whatever the
// agent's own configuration says.
type Collector struct {
	// Off leaves it out, or with false keeps it in; absent: as the agent says.
	Off *bool `yaml:"off"`
	// Interval is the time from one call to the next; 0: as the agent says.
	Interval time.Duration `yaml:"interval"`
}

// minCollectInterval is the shortest interval that agents are told.
const minCollectInterval = 100 * time.Millisecond

// Defaults has a heartbeat every five seconds.
func Defaults() Config {
	return Config{HeartbeatInterval: 5 * time.Second, ReconnectAfter: time.Second, MaxSeries: 1 << 16}
}

// Check reports values that are out of range.
func (c Config) Check(report func(key, format string, args ...any)) {
	if c.HeartbeatInterval < 100*time.Millisecond {
		report("heartbeat_interval", "is %s; want at least 100ms", c.HeartbeatInterval)
	}
	for kind, collector := range c.Collectors {
		if collector.Interval != 0 && collector.Interval < minCollectInterval {
			report("collectors."+kind+".interval", "is %s; want at least %s", collector.Interval, minCollectInterval)
		}
	}
	if c.ReconnectAfter < 0 {
		report("reconnect_after", "is %s; want 0 or more", c.ReconnectAfter)
	}
	if c.MaxSeries < 1 {
		report("max_series", "is %d; want at least 1", c.MaxSeries)
	}
}

// Bus is where event frames go.
type Bus interface {
	// Write stores a frame; a repeat is stored once.
	Write(ctx context.Context, m bus.Message) (sequence uint64, err error)
	// Settle returns when the frame of a sequence, and all before it, are durable.
	Settle(ctx context.Context, sequence uint64) error
	// Last gives the position of a node's last durable frame.
	Last(ctx context.Context, node string) (*agentv1.Position, error)
}

// Samples is where samples go.
type Samples interface {
	// Series gives a series of a node by its metric and its labels; nil when the
	// dictionary has none such.
	Series(node, name string, labels map[string]string) *metrics.Series
	// AppendPoints stores samples of a node's series; repeats are harmless.
	AppendPoints(ctx context.Context, node string, points []metrics.Point) (metrics.Counts, error)
	// AppendStep stores the run metrics of an event that is a step report.
	AppendStep(ctx context.Context, node string, event *commonv1.Event) (metrics.Counts, error)
}

// Fleet knows who is connected.
type Fleet interface {
	// Connected makes this the node's session and ends an older one. Live ends
	// when ctx does or a newer session takes over; release is called at the end.
	Connected(ctx context.Context, hello *agentv1.Hello, send func(*agentv1.ConnectResponse) error) (live context.Context, release func())
	// Heartbeat notes how a node's agent is.
	Heartbeat(node string, beat *agentv1.Heartbeat) error
}

// Deps is what the service is given.
type Deps struct {
	Bus     Bus
	Samples Samples
	Fleet   Fleet
	// Load says what is refused for want of memory; nil refuses nothing.
	Load *load.Gauge
	// Admit refuses a node that is not the one that it says; nil takes its word.
	Admit   func(ctx context.Context, node string) error
	Log     *slog.Logger
	Metrics prometheus.Registerer
	Tracer  trace.Tracer
	Clock   func() time.Time
}

// Service implements vigil.agent.v1.AgentService. It is safe for concurrent
// use.
type Service struct {
	agentv1.UnimplementedAgentServiceServer

	config      Config
	deps        Deps
	frameCount  *prometheus.CounterVec
	sampleCount *prometheus.CounterVec

	told   atomic.Pointer[told]
	resent prometheus.Counter

	frames  atomic.Int64  // that came and are not yet stored
	buffers chan *buffers // one for each frame of samples that is stored at once
	workers *life.Workers

	goAway    context.CancelFunc
	whenGoing func(do func()) (stop func() bool) // has something done when the control plane goes away
	mu        sync.Mutex                         // held to go away and to begin a session
	gone      bool
	open      sync.WaitGroup
}

// New makes the service. Its owner registers it at a gRPC server that was made
// with [Service.ServerOptions], and runs it.
func New(config Config, deps Deps) *Service {
	going, goAway := context.WithCancel(context.Background())
	s := &Service{
		config:      config,
		deps:        deps,
		frameCount:  metric.NewCounter(deps.Metrics, metric.ControlFrames),
		sampleCount: metric.NewCounter(deps.Metrics, metric.ControlSamples),
		buffers:     newBuffers(2 * runtime.GOMAXPROCS(0)),
		workers:     life.NewWorkers(),
		goAway:      goAway,
		whenGoing:   func(do func()) func() bool { return context.AfterFunc(going, do) },
		resent:      metric.NewCounter(deps.Metrics, metric.ControlSettings).WithLabelValues(),
	}
	s.told.Store(newTold(config.Collectors))
	return s
}

// ServerOptions is what the agents' gRPC server needs: room for the largest
// frame, and pings both ways, so that an agent that vanished is noticed.
func (s *Service) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessageBytes),
		// For each of ten thousand connections: nothing is read ahead, since TLS
		// reads a record at a time anyway; the buffer for writing is there only
		// while something is written.
		grpc.ReadBufferSize(0), grpc.WriteBufferSize(bufferBytes),
		grpc.HeaderTableSize(0), // each connection has one stream: no header comes twice
		grpc.ForceServerCodecV2(newCodec(s.workers)), grpc.InTapHandle(endable),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingInterval, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPingInterval, PermitWithoutStream: true}),
	}
}

// Run waits until ctx ends, then asks every agent to connect again later, ends
// the sessions and waits for them. A stream opened from then on is refused.
func (s *Service) Run(ctx context.Context) error {
	<-ctx.Done()
	s.mu.Lock()
	s.gone = true
	s.mu.Unlock()
	s.goAway()
	s.open.Wait()
	return s.workers.Stop()
}

// Busy tells whether agents wait for frames to be taken.
func (s *Service) Busy() bool { return s.frames.Load() > 0 }

// enter begins a session, unless the control plane goes away.
func (s *Service) enter() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return errGoing()
	}
	s.open.Add(1)
	return nil
}

func errGoing() error {
	return fault.New(fault.Unavailable, "the control plane is going away; connect again later")
}

// stream is one agent's stream.
type stream = grpc.BidiStreamingServer[agentv1.ConnectRequest, agentv1.ConnectResponse]

// Connect works one agent's stream until it ends.
func (s *Service) Connect(stream stream) error {
	err := s.serve(stream)
	if errors.Is(err, io.EOF) || fault.Is(err, fault.Canceled) {
		return nil // the agent went away, with a word or without
	}
	return fault.GRPC(err)
}

func (s *Service) serve(stream stream) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.open.Done()
	cut, ok := stream.Context().Value(endKey{}).(context.CancelCauseFunc)
	if !ok {
		return fault.New(fault.Internal, "open session: the server lacks the ingest service's options")
	}
	end := func(why error) {
		protocol.SetEnd(stream, fault.GRPC(why))
		cut(why)
	}
	hello, err := s.hello(stream, end)
	if err != nil {
		s.deps.Log.Warn("agent was refused", "error", err)
		return err
	}
	x := &session{
		Service: s, stream: stream, end: end, node: hello.Node, id: uuid.NewString(),
		series: map[uint32]series{}, seed: maphash.MakeSeed(),
	}
	defer x.close()
	// Before Welcome: an agent that has Welcome may connect again at once, and
	// that later session must be the one that stays.
	live, err := x.open(hello)
	if err == nil {
		err = x.run(live)
	}
	s.deps.Log.Info("agent's session ended", "node", x.node, "session", x.id, "reason", ending(err))
	return err
}

// ending says why a session ended.
func ending(err error) string {
	switch {
	case err == nil:
		return "this control plane stops, and sent the agent away"
	case errors.Is(err, io.EOF), fault.Is(err, fault.Canceled):
		return "the agent went away"
	}
	return err.Error()
}

// endKey is where a stream's context has what ends it.
type endKey struct{}

// endable gives an agent's stream a context that its session can end: nothing
// else ends a Recv, and a goroutine for each stream that only waits in Recv would
// take more memory than the rest of the session.
func endable(ctx context.Context, info *tap.Info) (context.Context, error) {
	if info.FullMethodName != agentv1.AgentService_Connect_FullMethodName {
		return ctx, nil
	}
	ctx, end := context.WithCancelCause(ctx)
	return context.WithValue(ctx, endKey{}, end), nil
}

// hello waits for the first message and checks who it is from.
func (s *Service) hello(stream stream, end func(error)) (*agentv1.Hello, error) {
	ctx := stream.Context()
	late := time.AfterFunc(helloTimeout, func() {
		end(fault.New(fault.Deadline, "open session: no Hello within %s", helloTimeout))
	})
	defer late.Stop()
	stay := s.whenGoing(func() { end(errGoing()) })
	defer stay()
	first, err := stream.Recv()
	if err != nil {
		return nil, whyEnded(ctx, err)
	}
	hello := first.GetHello()
	switch {
	case hello == nil:
		return nil, fault.New(fault.Invalid, "open session: the first message is %T; say Hello first", first.Message)
	case hello.Revision != protocol.Revision:
		return nil, fault.WithHint(
			fault.New(fault.Precondition, "open session: agent %q (version %q) speaks protocol revision %d, this control plane speaks %d",
				hello.Node, hello.Version, hello.Revision, protocol.Revision),
			"run an agent and a control plane of the same release; update the one with the lower revision")
	}
	if err := protocol.CheckNode(hello.Node); err != nil {
		return nil, fmt.Errorf("open session: %w", err)
	}
	if err := s.deps.Load.Admit(load.Sessions); err != nil {
		return nil, fmt.Errorf("open session: %w", err)
	}
	if s.deps.Admit != nil {
		if err := s.deps.Admit(ctx, hello.Node); err != nil {
			return nil, fmt.Errorf("open session: %w", err)
		}
	}
	return hello, nil
}

// whyEnded prefers why a stream was ended here to what the end looked like.
func whyEnded(ctx context.Context, err error) error {
	if why := context.Cause(ctx); why != nil && !errors.Is(why, context.Canceled) {
		return why
	}
	return err
}
