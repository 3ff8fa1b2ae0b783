// Package bus keeps the agents' event frames, in the order in which they came,
// and hands them to whoever works on them. It is a stream of NATS JetStream: in
// this process, as files in one directory and without a network port, or of a
// cluster that control planes share ([Config].URL). There the frames of runs are
// divided into partitions, each of which is read by one control plane at a time.
//
// Each frame is one message on the subject vigil.event.<source>.<run> (see
// layout.go for what partitions add). The
// source is the node that sent it or, with a '~' behind the name, the control
// plane itself speaking of that node; events of the node rather than of a run
// have "=" for the run. Names are written as tokens (see token.go). A frame is on disk when [Bus.Publish]
// returns, and a frame that comes again, by its position in the agent's spool,
// is stored once.
//
// The stream is bounded by age and size; what exceeds a bound is discarded, the
// oldest first. A reader that is further behind than that misses frames: it
// goes on with the first one that is there, and what it missed is counted and
// logged. What is discarded is also forgotten: the position of a node whose
// frames are all gone is unknown again, and a replay of them would be stored
// again. MaxAge is therefore to be longer than an agent may keep unacknowledged
// frames.
package bus

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/metric"
)

const (
	streamName    = "EVENTS"
	subjectPrefix = "vigil.event."

	// maxPayloadBytes is the most that NATS takes without a warning.
	maxPayloadBytes = 8 << 20
	// MaxBatchBytes is the largest marshalled batch that [Bus.Publish] takes;
	// the rest of NATS' limit is for headers.
	MaxBatchBytes = maxPayloadBytes - 16<<10

	minStoreBytes = 64 << 20
	setupTimeout  = 30 * time.Second
)

// Policies of [Config.Sync].
const (
	SyncAlways   = "always"
	SyncInterval = "interval"
)

// Config is what users say about the bus.
type Config struct {
	// Dir holds the stream's files. One process at a time may have it open.
	Dir string `yaml:"dir"`
	// URL of a NATS cluster with JetStream, in place of files of our own: the
	// servers, separated by commas, such as nats://nats-0:4222,nats://nats-1:4222.
	// Its servers decide when they sync, so that Sync is not used; docs/fleet.md
	// says what each choice can lose.
	URL string `yaml:"url"`
	// Credentials is a file with NATS credentials for URL; may be empty.
	Credentials string `yaml:"credentials"`
	// TLS is how the servers of URL are spoken with. Where they are not all on this
	// machine it must be given.
	TLS TLSConfig `yaml:"tls"`
	// Replicas is on how many servers of the cluster each frame is: 1 to 5.
	Replicas int `yaml:"replicas"`
	// Partitions is into how many parts the runs are divided in a cluster, each
	// of which has one owner: 1 to 64. It is fixed when the stream is made.
	Partitions int `yaml:"partitions"`
	// Sync is when frames are put on stable storage:
	//
	// "always" syncs the file before a frame is acknowledged; frames that are on
	// their way at the same time share a sync. Neither a crash of the control
	// plane nor of the machine loses an acknowledged frame.
	//
	// "interval" syncs every SyncInterval. A crash of the control plane loses
	// nothing, since the operating system has the data; a crash of the machine
	// or a power failure loses the acknowledged frames of the last interval, and
	// their agents have deleted them by then.
	Sync string `yaml:"sync"`
	// SyncInterval is used with "interval"; >= 10ms.
	SyncInterval time.Duration `yaml:"sync_interval"`
	// MaxBytes is how much the stream may take up on disk; >= 64 MiB.
	MaxBytes int64 `yaml:"max_bytes"`
	// MaxAge is how long frames are kept; >= 1 minute.
	MaxAge time.Duration `yaml:"max_age"`
}

// Defaults keeps a week of frames or 4 GiB in a directory, each frame
// synced.
func Defaults(dir string) Config {
	return Config{Dir: dir, Sync: SyncAlways, SyncInterval: time.Second, MaxBytes: 4 << 30, MaxAge: 7 * 24 * time.Hour, Replicas: 3, Partitions: 8}
}

// Check reports values that are out of range.
func (c Config) Check(report func(key, format string, args ...any)) {
	if c.Dir == "" && c.URL == "" {
		report("dir", "is empty; name a directory")
	}
	if c.URL != "" && !c.local() && c.TLS.CAFile == "" {
		report("tls", "is missing, and servers of url are on other machines: want ca_file, cert_file and key_file; agentctl admin certificates makes them")
	}
	if c.URL != "" && (c.Replicas < 1 || c.Replicas > 5) {
		report("replicas", "is %d; want 1 to 5", c.Replicas)
	}
	if c.URL != "" && (c.Partitions < 1 || c.Partitions > 64) {
		report("partitions", "is %d; want 1 to 64", c.Partitions)
	}
	if c.Sync != SyncAlways && c.Sync != SyncInterval {
		report("sync", "is %q; want %s or %s", c.Sync, SyncAlways, SyncInterval)
	}
	if c.Sync == SyncInterval && c.SyncInterval < 10*time.Millisecond {
		report("sync_interval", "is %s; want at least 10ms", c.SyncInterval)
	}
	if c.MaxBytes < minStoreBytes {
		report("max_bytes", "is %d; want at least %d", c.MaxBytes, minStoreBytes)
	}
	if c.MaxAge < time.Minute {
		report("max_age", "is %s; want at least 1m", c.MaxAge)
	}
}

// Deps is what the bus is given.
type Deps struct {
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Bus is the open bus. All methods are safe for concurrent use.
type Bus struct {
	log     *slog.Logger
	skipped *prometheus.CounterVec

	unlock func()
	server *server.Server
	conn   *nats.Conn
	js     jetstream.JetStream
	stream jetstream.Stream
	syncer *syncer // nil where frames are on stable storage, as Config.Sync has it, once NATS has them

	layout layout
	shared bool // with other processes

	mu     sync.Mutex
	places map[string]*place
}

// Open opens the bus, making the directory or the stream where there is none,
// and recovers what is in it. It fails with [fault.Unavailable] when another
// process has the directory open or the cluster does not answer, and with
// [fault.Precondition] when the cluster's stream has other partitions. The
// caller closes the bus.
func Open(ctx context.Context, config Config, deps Deps) (*Bus, error) {
	b := &Bus{log: deps.Log, places: map[string]*place{}, layout: layout{1}}
	open, where := func(ctx context.Context, config Config) error { return b.embed(ctx, config, deps.Metrics) }, config.Dir
	if config.URL != "" {
		open, where = b.join, "a NATS cluster"
	}
	if err := open(ctx, config); err != nil {
		b.Close()
		return nil, fmt.Errorf("open bus in %s: %w", where, err)
	}
	b.skipped = metric.NewCounter(deps.Metrics, metric.ControlBusSkipped)
	return b, nil
}

// embed starts NATS in this process.
func (b *Bus) embed(ctx context.Context, config Config, reg prometheus.Registerer) (err error) {
	if b.unlock, err = lock(config.Dir); err != nil {
		return err
	}
	if b.server, err = startServer(config, b.log); err != nil {
		return err
	}
	if err := b.connect("", nats.InProcessServer(b.server)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	b.stream, err = b.js.CreateOrUpdateStream(ctx, streamConfig(config, b.layout))
	if err != nil {
		return fmt.Errorf("open stream %s: %w", streamName, err)
	}
	if config.Sync == SyncAlways {
		seconds := metric.NewLatency(reg, metric.ControlBusSync).WithLabelValues()
		b.syncer, err = openSyncer(config.Dir, b.stream.CachedInfo().State.LastSeq, seconds)
	}
	return err
}

func (b *Bus) connect(url string, options ...nats.Option) (err error) {
	options = append(options, nats.Name("vigil"), nats.MaxReconnects(-1),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { b.log.Warn("bus connection", "error", err) }))
	if b.conn, err = nats.Connect(url, options...); err != nil {
		return fault.New(fault.Unavailable, "connect to NATS: %w", err)
	}
	if b.js, err = jetstream.New(b.conn); err != nil {
		return fmt.Errorf("open JetStream: %w", err)
	}
	return nil
}

func streamConfig(config Config, l layout) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        streamName,
		Description: "Event frames of all agents.",
		Subjects:    []string{l.all()},
		Storage:     jetstream.FileStorage,
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardOld,
		MaxBytes:    config.MaxBytes,
		MaxAge:      config.MaxAge,
		Duplicates:  min(2*time.Minute, config.MaxAge),
	}
}

// Err says why nothing can be stored now: the servers are out of reach, or the
// disk failed a sync, which only opening the bus anew mends. It is nil otherwise.
func (b *Bus) Err() error {
	if b.syncer != nil {
		if err := b.syncer.err(); err != nil {
			return fault.New(fault.Unavailable, "sync the bus: %w", err)
		}
	}
	if status := b.conn.Status(); status != nats.CONNECTED {
		return fault.New(fault.Unavailable, "reach the bus: the connection is %s", strings.ToLower(status.String()))
	}
	return nil
}

// Close ends all reading and writing and waits until the stream's files are
// closed. Closing twice does nothing.
func (b *Bus) Close() {
	if b.conn != nil {
		b.conn.Close()
	}
	if b.server != nil {
		b.server.Shutdown()
		b.server.WaitForShutdown()
	}
	if b.syncer != nil {
		b.syncer.close()
	}
	if b.unlock != nil {
		b.unlock()
		b.unlock = nil
	}
}

// Message is one event frame of one node.
type Message struct {
	// Node is the agent's node; not empty.
	Node string
	// Own tells that the control plane itself speaks of the node. Such messages
	// have positions of their own: each maker's in an epoch behind that of
	// [Bus.LastOwn].
	Own bool
	// Position is the frame's place in the node's spool; epoch and sequence are
	// at least 1.
	Position *agentv1.Position
	// Received is when the control plane got it.
	Received time.Time
	// Batch is the content.
	Batch *agentv1.EventBatch
}

// Delivery is a stored message.
type Delivery struct {
	// Sequence is the message's place in the stream: it only grows, from 1 on.
	Sequence uint64
	Message
}

// check tells what is wrong with a message before anything is stored.
func (m Message) check() error {
	switch {
	case m.Node == "" || len(m.Node) > maxNameBytes:
		return fault.New(fault.Invalid, "name of the node has %d bytes; want 1 to %d", len(m.Node), maxNameBytes)
	case m.Position.GetEpoch() == 0 || m.Position.GetSequence() == 0:
		return fault.New(fault.Invalid, "position %d/%d is not one; epoch and sequence begin at 1", m.Position.GetEpoch(), m.Position.GetSequence())
	case m.Batch == nil:
		return fault.New(fault.Invalid, "frame %s has no batch", positionText(m.Position))
	case len(m.Batch.RunId) > maxNameBytes:
		return fault.New(fault.Invalid, "id of the run has %d bytes; want at most %d", len(m.Batch.RunId), maxNameBytes)
	}
	return nil
}
