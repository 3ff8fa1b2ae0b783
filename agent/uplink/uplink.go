// Package uplink carries the agent's frames to the control plane and its
// commands back, over one stream that it opens again for as long as it runs.
//
// # Ordering and repeats
//
// Frames of one class are sent in order. A session goes on behind the last
// frame that is known to be durable: what the control plane says in Welcome or
// the spool's acknowledge mark, whichever is further. A frame may be sent
// twice; its position tells. The spool lets go of frames only on Ack.
//
// # Bounds
//
// At most MaxInFlight frames of a class are sent and not acknowledged; then
// the sender waits. Frames wait in the spool, on disk, and only the one that
// is being sent is in memory. Sample frames are joined for BatchInterval, at
// most 16,384 samples at a time. When frames wait for an acknowledgement and none
// comes for AckTimeout, the session ends and another is tried.
// Commands wait in a queue of CommandQueue; one that finds it full is refused
// and counted, and the control plane sends it again in the next session.
package uplink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/vigil-ml/vigil/agent/spool"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/metric"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
)

// Config is what users say about the way to the control plane.
type Config struct {
	// Address of the control plane's port for agents, host:port.
	Address string `yaml:"address"`
	// BackoffMin and BackoffMax bound the wait between tries, which doubles
	// and is shortened by up to half at random.
	BackoffMin time.Duration `yaml:"backoff_min"`
	BackoffMax time.Duration `yaml:"backoff_max"`
	// RefusedRetry is the wait after the control plane refused this agent.
	RefusedRetry time.Duration `yaml:"refused_retry"`
	// AckTimeout is how long frames may wait without any acknowledgement; it
	// also bounds the opening of a session.
	AckTimeout time.Duration `yaml:"ack_timeout"`
	// MaxInFlight bounds the unacknowledged frames of each class; >= 1.
	MaxInFlight int `yaml:"max_in_flight"`
	// BatchInterval is how long samples wait to be sent with later ones; a
	// longer one takes fewer bytes a sample. 0 does not wait.
	BatchInterval time.Duration `yaml:"batch_interval"`
	// CommandQueue bounds the commands that wait; >= 1.
	CommandQueue int `yaml:"command_queue"`
}

// Defaults is right for a control plane on the same machine.
func Defaults() Config {
	return Config{
		Address: "127.0.0.1:7443", BackoffMin: 100 * time.Millisecond, BackoffMax: 10 * time.Second,
		RefusedRetry: time.Minute, AckTimeout: 30 * time.Second, MaxInFlight: 256, CommandQueue: 64,
		BatchInterval: 5 * time.Second,
	}
}

// Check reports values that cannot work.
func (c Config) Check(report func(key, format string, args ...any)) {
	host, port, err := net.SplitHostPort(c.Address)
	if _, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil {
		report("address", "is %q; want host:port", c.Address)
	} else if host == "" {
		report("address", "is %q; want host:port", c.Address)
	}
	for key, d := range map[string]time.Duration{
		"backoff_min": c.BackoffMin, "backoff_max": c.BackoffMax,
		"refused_retry": c.RefusedRetry, "ack_timeout": c.AckTimeout,
	} {
		if d <= 0 {
			report(key, "is %v; want more than 0", d)
		}
	}
	if c.BackoffMax < c.BackoffMin {
		report("backoff_max", "is %v, less than backoff_min", c.BackoffMax)
	}
	if c.BatchInterval < 0 || (c.AckTimeout > 0 && c.BatchInterval > c.AckTimeout) {
		report("batch_interval", "is %v; want 0 to ack_timeout", c.BatchInterval)
	}
	for key, n := range map[string]int{"max_in_flight": c.MaxInFlight, "command_queue": c.CommandQueue} {
		if n < 1 {
			report(key, "is %d; want at least 1", n)
		}
	}
}

// Series says what series numbers stand for.
type Series interface {
	// SeriesDefs gives the definitions of the numbers that it knows.
	SeriesDefs(refs []uint32) []*agentv1.SeriesDef
}

// Commands does what the control plane asks.
type Commands interface {
	// Execute does one command. It is called from several goroutines at once,
	// and again for a command that the control plane sends again. ctx ends
	// when the agent does, not with the session.
	Execute(ctx context.Context, command *agentv1.Command)
}

// Deps is what an uplink works with.
type Deps struct {
	Events, Samples *spool.Spool
	Series          Series
	Commands        Commands
	// Hello and Heartbeat say who and how the agent is; both are called for
	// each message and must not block. An empty revision is filled in.
	Hello     func() *agentv1.Hello
	Heartbeat func() *agentv1.Heartbeat
	// Credentials gives what each session is opened with; nil opens it without
	// TLS.
	Credentials func(ctx context.Context) (credentials.TransportCredentials, error)
	// Address gives where the control plane is now, for each session; nil: where
	// Config says.
	Address func() string
	// Settings is told what each Welcome sets, nil for nothing, and what is set
	// later in its session; it must not block. It may be nil.
	Settings func(*agentv1.Settings)
	Log      *slog.Logger
	Metrics  prometheus.Registerer
}

// address is where the control plane is.
func (u *Uplink) address() string {
	if u.deps.Address != nil {
		return u.deps.Address()
	}
	return u.config.Address
}

// Uplink is the agent's side of the stream. Make one with [New].
type Uplink struct {
	config    Config
	deps      Deps
	queue     chan *agentv1.Command
	connected atomic.Bool
	conn      atomic.Pointer[grpc.ClientConn] // of the session; nil without one
	up        prometheus.Gauge
	sessions  prometheus.Counter
	refused   prometheus.Counter
	complaint string // what was logged last, while it has not changed; written between sessions only
}

// New makes an uplink; the configuration has been checked.
func New(config Config, deps Deps) *Uplink {
	return &Uplink{
		config: config, deps: deps, queue: make(chan *agentv1.Command, config.CommandQueue),
		up:       metric.NewGauge(deps.Metrics, metric.AgentUplinkConnected).WithLabelValues(),
		sessions: metric.NewCounter(deps.Metrics, metric.AgentUplinkSessions).WithLabelValues(),
		refused:  metric.NewCounter(deps.Metrics, metric.AgentCommandsRefused).WithLabelValues(),
	}
}

// Connected tells whether a session is open. It is safe for concurrent use.
func (u *Uplink) Connected() bool { return u.connected.Load() }

// Meet asks the control plane for the notes of a run's ranks, on the connection of
// the session; it fails with [fault.Unavailable] without one. It is safe for
// concurrent use.
func (u *Uplink) Meet(ctx context.Context, in *agentv1.MeetRequest) (*agentv1.MeetResponse, error) {
	conn := u.conn.Load()
	if conn == nil {
		return nil, fault.New(fault.Unavailable, "meet: the control plane at %s is out of reach", u.address())
	}
	out, err := agentv1.NewAgreementServiceClient(conn).Meet(ctx, in)
	if err != nil {
		return nil, fmt.Errorf("meet: %w", fault.FromGRPC(err))
	}
	return out, nil
}

// Run keeps a session open until ctx ends; it gives nil then. Nothing that the
// control plane does ends it.
func (u *Uplink) Run(ctx context.Context) error {
	tasks := []life.Task{{Name: "uplink sessions", Run: u.keepOpen}}
	for range commandWorkers {
		tasks = append(tasks, life.Task{Name: "uplink commands", Run: u.execute})
	}
	return life.All(ctx, tasks...)
}

func (u *Uplink) keepOpen(ctx context.Context) error {
	backoff := u.config.BackoffMin
	for {
		began := time.Now()
		progress, err := u.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if progress || time.Since(began) > u.config.BackoffMax {
			backoff = u.config.BackoffMin
		}
		wait := jitter(backoff)
		drain, isDrain := errors.AsType[drained](err)
		switch {
		case isDrain:
			wait = spread(drain.after, u.config.BackoffMin)
			u.deps.Log.Info("control plane goes away for a while", "reconnect_after", drain.after)
		case fault.Is(err, fault.Precondition), fault.Is(err, fault.Invalid), fault.Is(err, fault.Denied):
			wait = jitter(u.config.RefusedRetry)
			u.complain(slog.LevelError, "control plane refuses this agent; telemetry waits in the spool", err)
		default:
			backoff = min(2*backoff, u.config.BackoffMax)
			u.complain(slog.LevelWarn, "control plane is out of reach; telemetry waits in the spool", err)
		}
		if hint, hinted := errors.AsType[busy](err); hinted {
			wait = max(wait, spread(hint.after, u.config.BackoffMin))
		}
		if !life.Sleep(ctx, wait) {
			return nil
		}
	}
}

// complain logs a failure once, until it is another or a session got
// something acknowledged.
func (u *Uplink) complain(level slog.Level, text string, err error) {
	if complaint := fmt.Sprint(text, err); complaint != u.complaint {
		u.complaint = complaint
		u.deps.Log.Log(context.Background(), level, text, "address", u.address(), "err", err)
	}
}
