// Package fleet knows which agents are there, and tells them what to do.
//
// A command is a row before it is a message: whoever wants something of an
// agent writes the row in the transaction that decides it
// ([Fleet.RequestCheckpoint]), and [Fleet.Run] sends what is committed, again
// after each reconnect of the agent, until it is done or its deadline has
// passed. The agent does each idempotency key once, so a repeat is harmless.
//
// The package holds one small session a connected agent and no goroutine for
// those that have nothing to do.
package fleet

import (
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/metric"
)

// Config is what users say about the fleet.
type Config struct {
	// RecordInterval is how long heartbeats are gathered before they are
	// written; connects and disconnects are written at once.
	RecordInterval time.Duration `yaml:"record_interval"`
	// LostAfter is how long nothing is heard of a node before it counts as
	// lost: 1s to 1h. Make it at least three heartbeats.
	LostAfter time.Duration `yaml:"lost_after"`
}

// Defaults writes heartbeats every five seconds, and gives a node up after a
// minute.
func Defaults() Config { return Config{RecordInterval: 5 * time.Second, LostAfter: time.Minute} }

// Check reports times that are out of range.
func (c Config) Check(report func(key, format string, args ...any)) {
	if c.RecordInterval < 100*time.Millisecond || c.RecordInterval > time.Minute {
		report("record_interval", "is %v; want 100ms to 1m", c.RecordInterval)
	}
	if c.LostAfter < time.Second || c.LostAfter > time.Hour {
		report("lost_after", "is %v; want 1s to 1h", c.LostAfter)
	}
}

// Deps is what code injects.
type Deps struct {
	Store *store.Store
	// Bus takes word of nodes that come, go and are lost; where it is nil,
	// nothing is said.
	Bus     Bus
	Log     *slog.Logger
	Metrics prometheus.Registerer
	Tracer  trace.Tracer
	Clock   func() time.Time
	// Self is this control plane among several that share the store; empty where
	// there is one.
	Self string
	// TookOver is told that a node's agent has come here, so that others end the
	// session that they may have of it; may be nil.
	TookOver func(node string)
}

// Fleet is the agents that are there. Make one with [New]; all methods are
// safe for concurrent use. No lock of a Fleet is held while SQL runs.
type Fleet struct {
	config   Config
	deps     Deps
	agents   *prometheus.GaugeVec
	commands *prometheus.CounterVec
	wake     chan struct{} // holds one token: there may be something to send or record
	linkWake chan struct{} // holds one token: a node came or went

	mu       sync.Mutex
	sessions map[string]*session // by node
	nodes    map[string]*record  // by node, also those that went away
}

// New makes a fleet in which nobody is connected. It does nothing until
// [Fleet.Run].
func New(config Config, deps Deps) *Fleet {
	return &Fleet{
		config:   config,
		deps:     deps,
		agents:   metric.NewGauge(deps.Metrics, metric.ControlAgents),
		commands: metric.NewCounter(deps.Metrics, metric.ControlCommands),
		wake:     make(chan struct{}, 1),
		linkWake: make(chan struct{}, 1),
		sessions: map[string]*session{},
		nodes:    map[string]*record{},
	}
}

// nudge makes Run look again; it never blocks.
func (f *Fleet) nudge() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// nudgeLinks makes the linker look again; it never blocks.
func (f *Fleet) nudgeLinks() {
	select {
	case f.linkWake <- struct{}{}:
	default:
	}
}
