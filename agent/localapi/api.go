// Package localapi is the agent's side of the training processes on its node:
// TrainerService on a unix socket, as gRPC and as HTTP/JSON.
//
// A process registers and gets a session; everything that it says is stamped
// with the session's run, attempt and rank. A training process is there for as
// long as it watches its directives; when the watch ends it counts as away, and
// whoever waits for it learns of that, but its session still takes what it has
// left to report. A process that registers again replaces its earlier session.
package localapi

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/vigil-ml/vigil/agent/standing"
	"github.com/vigil-ml/vigil/agent/vault"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/serve"
	trainergw "github.com/vigil-ml/vigil/proto/gateway/vigil/trainer/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

// Config is what users say about the trainers' socket.
type Config struct {
	// Socket is the path of the unix socket; at most 107 bytes.
	Socket string `yaml:"socket"`
	// SocketMode is who may connect, in octal: 0600 for the agent's user, 0660 for
	// its group, 0666 for every user. Whoever connects is known by the kernel's
	// word, and a run is of the user whose process registered it first.
	SocketMode string `yaml:"socket_mode"`
	// Hold is how long a process that met a non-finite value waits to be told
	// what to do before it saves by itself.
	Hold time.Duration `yaml:"hold"`
	// CallTimeout bounds a call; but for ResolveResume, which reads a whole
	// checkpoint.
	CallTimeout time.Duration `yaml:"call_timeout"`
	// ResolveTimeout bounds ResolveResume.
	ResolveTimeout time.Duration `yaml:"resolve_timeout"`
	// LostAfter is how long all processes of a run that has not ended must be
	// away before the agent says that it has failed.
	LostAfter time.Duration `yaml:"lost_after"`
	// TickAfter is how long a trainer must at least have finished no step before
	// the agent says so; see [API.Run]. What becomes of it the hang rule says.
	TickAfter time.Duration `yaml:"tick_after"`
	// MaxPerUser bounds the connections of one user of this machine, and the calls
	// that one user has under way, a watch too; >= 1. Four times as many connections
	// are taken of all users together.
	MaxPerUser int `yaml:"max_per_user"`
	// Runs is the file that remembers this node's runs and how often each was
	// launched; empty: beside the socket.
	Runs string `yaml:"runs"`
}

// Defaults serves on a socket.
func Defaults(socket string) Config {
	return Config{
		Socket: socket, SocketMode: "0600", Hold: 10 * time.Second, CallTimeout: 30 * time.Second,
		ResolveTimeout: 15 * time.Minute, LostAfter: time.Minute, TickAfter: 10 * time.Second,
		MaxPerUser: 1024,
	}
}

// Check reports settings that cannot work.
func (c Config) Check(report func(key, format string, args ...any)) {
	if c.Socket == "" {
		report("socket", "is empty; name a path for the trainers' socket")
	}
	if len(c.Socket) > maxSocketPath {
		report("socket", "has %d bytes; the kernel takes at most %d", len(c.Socket), maxSocketPath)
	}
	if _, err := c.mode(); err != nil {
		report("socket_mode", "%q: want 0600, 0660 or 0666", c.SocketMode)
	}
	if c.MaxPerUser < 1 {
		report("max_per_user", "is %d; want at least 1", c.MaxPerUser)
	}
	for key, d := range map[string]time.Duration{
		"hold": c.Hold, "call_timeout": c.CallTimeout, "resolve_timeout": c.ResolveTimeout,
		"lost_after": c.LostAfter, "tick_after": c.TickAfter,
	} {
		if d <= 0 {
			report(key, "is %s; want a positive duration", d)
		}
	}
}

// Checkpoints keeps what trainers save; [vault.Vault] does.
type Checkpoints interface {
	Begin(ctx context.Context, req vault.BeginRequest) (id, dir string, err error)
	Commit(ctx context.Context, req vault.CommitRequest) error
	Resolve(ctx context.Context, req vault.ResolveRequest) (*commonv1.CheckpointRef, []*trainerv1.PassedOver, error)
	// Abandon removes what a rank began and says that it will not commit.
	Abandon(runID, checkpointID string, rank uint32)
	// Standing tells whether a checkpoint is known as another run's, and whether
	// the rank has committed it.
	Standing(runID, checkpointID string, rank uint32) (foreign, committed bool)
}

// Ordered is a checkpoint that somebody asked for.
type Ordered struct {
	Order       *commonv1.CheckpointOrder
	CommandID   string // empty when the order is this node's own
	Traceparent string
}

// Orders has runs saved.
type Orders interface {
	// Start tells a run's trainers to save, and returns when they were told.
	Start(ctx context.Context, order *commonv1.CheckpointOrder, traceparent string, deadline time.Time) error
	// Lookup gives the order for a checkpoint while it is carried out.
	Lookup(checkpointID string) (Ordered, bool)
}

// Weigher says how much each task's loss counts.
type Weigher interface {
	// Weigh answers for the process that key names.
	Weigh(key string, in *trainerv1.WeightsRequest) (*trainerv1.WeightsResponse, error)
}

// Deps is what the API needs of others.
type Deps struct {
	Log     *slog.Logger
	Metrics prometheus.Registerer
	Clock   func() time.Time
	// Node is the node's name.
	Node string
	// Sessions is the table; whoever directs trainers has it too.
	Sessions    *Sessions
	Checkpoints Checkpoints
	Orders      Orders
	// GPUBusy gives the utilization of the node's busiest GPU, 0 to 1, where it is
	// known; may be nil.
	GPUBusy func() (busy float64, known bool)
	// Standing remembers how runs stand; it is told events by whoever made it. Nil:
	// one that is told nothing.
	Standing *standing.Book
	// Weights answers who asks for the weights of its tasks; nil: nobody does.
	Weights Weigher
	// Encrypts tells whether the vault encrypts.
	Encrypts bool
	// Telemetry has trainers send their spans and logs.
	Telemetry bool
	// Events puts a run's events on stable storage.
	Events func(ctx context.Context, runID string, events ...*commonv1.Event) error
	// Observe is told each event afterwards and must not block; nil when nobody
	// listens.
	Observe func(*commonv1.Event)
}

// API serves TrainerService. All methods are safe for concurrent use; Run is
// called once.
type API struct {
	trainerv1.UnimplementedTrainerServiceServer

	config   Config
	deps     Deps
	sessions *Sessions
	book     *book
	events   prometheus.Counter
	dropped  prometheus.Counter
	refused  prometheus.Counter
	peers    prometheus.Counter // refused processes
	conns    prometheus.Counter // refused connections
	clamped  prometheus.Counter
	lost     prometheus.Counter
	ticks    prometheus.Counter
	attempts *prometheus.CounterVec
	weights  *prometheus.CounterVec
	warned   warned
	closing  chan struct{} // closed when Run ends
}

// New makes an API that serves when Run is called.
func New(config Config, deps Deps) *API {
	if deps.Standing == nil {
		deps.Standing = standing.New(deps.Clock)
	}
	return &API{
		config: config, deps: deps, sessions: deps.Sessions, book: newBook(deps.Log),
		events:   metric.NewCounter(deps.Metrics, metric.AgentTrainerEvents).WithLabelValues(),
		dropped:  metric.NewCounter(deps.Metrics, metric.AgentTrainerDropped).WithLabelValues(),
		refused:  metric.NewCounter(deps.Metrics, metric.AgentEventsRefused).WithLabelValues(),
		peers:    metric.NewCounter(deps.Metrics, metric.AgentPeersRefused).WithLabelValues(),
		conns:    metric.NewCounter(deps.Metrics, metric.AgentConnsRefused).WithLabelValues(),
		clamped:  metric.NewCounter(deps.Metrics, metric.AgentEventsClamped).WithLabelValues(),
		lost:     metric.NewCounter(deps.Metrics, metric.AgentRunsLost).WithLabelValues(),
		ticks:    metric.NewCounter(deps.Metrics, metric.AgentTicks).WithLabelValues(),
		attempts: metric.NewCounter(deps.Metrics, metric.AgentAttemptsEnded),
		weights:  metric.NewCounter(deps.Metrics, metric.AgentWeights),
		closing:  make(chan struct{}),
	}
}

// Run serves the socket until ctx ends. It also says of trainers that finish no
// step that time passes (ticks.go). It fails with [fault.Exists] when
// another agent serves it. A socket that a dead agent left is replaced.
func (a *API) Run(ctx context.Context) error {
	mode, err := a.config.mode()
	if err != nil {
		return fmt.Errorf("serve trainers: %w", err)
	}
	listener, release, err := listen(a.config.Socket, mode)
	if err != nil {
		return fmt.Errorf("serve trainers: %w", err)
	}
	defer release()
	a.book.load(durable.OS{}, cmp.Or(a.config.Runs, a.config.Socket+".runs"))
	// First no more directives are taken, then the watches end: each gives its
	// process what was taken before.
	stop := context.AfterFunc(ctx, func() {
		a.sessions.stop()
		close(a.closing)
	})
	defer stop()
	server := grpc.NewServer(a.serverOptions()...)
	trainerv1.RegisterTrainerServiceServer(server, a)
	a.deps.Log.Info("serve trainers", "socket", a.config.Socket)
	return life.All(ctx,
		life.Task{Name: "serve", Run: func(ctx context.Context) error {
			return serve.Both(ctx, a.bound(listener), serve.Options{
				GRPC: server, JSON: []serve.Register{trainergw.RegisterTrainerServiceHandler},
				Wait: a.wait(), BodyTime: a.config.CallTimeout,
			})
		}},
		life.Task{Name: "watch runs", Run: a.watchRuns},
		life.Task{Name: "watch steps", Run: a.watchSteps},
	)
}

// guardCall gives a call its deadline, and its error the right code. A panic
// in one call is that call's error: it must not take the other trainers' agent
// away.
func (a *API) guardCall(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (_ any, err error) {
	timeout := a.config.CallTimeout
	if info.FullMethod == trainerv1.TrainerService_ResolveResume_FullMethodName {
		timeout = a.config.ResolveTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	defer a.recovered(info.FullMethod, &err)
	resp, err := handle(ctx, req)
	return resp, fault.GRPC(err)
}

func (a *API) guardStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
	defer a.recovered(info.FullMethod, &err)
	return fault.GRPC(handle(srv, stream))
}

func (a *API) recovered(method string, err *error) {
	if p := recover(); p != nil {
		a.deps.Log.Error("answer call: panic", "method", method, "panic", p)
		*err = fault.GRPC(fault.New(fault.Internal, "answer call: panic; the agent's log says more"))
	}
}
