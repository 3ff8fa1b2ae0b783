// Package pipeline takes events from the bus and commits what they mean: the
// records of runs and checkpoints, findings, incidents and notifications, and
// its own place on the bus, all in one transaction. So every event takes
// effect exactly once, whenever the control plane is killed.
//
// The detectors' state is in memory only. At the start, and after an error,
// it is built again without writing anything, from the frames since the first
// one of a run that has not ended, and at least those of the last hour
// ([detect.NodeMemory]): no detector of a node looks further back. Which
// problems of nodes are open the store knows, however old they are. What half a
// transaction had done is thereby undone.
//
// Where the bus has partitions there is a pipeline for each, which has an owner
// at a time. Its transaction moves the cursor from where the pipeline believes
// it to be; one that was taken for dead and goes on finds it elsewhere, and
// writes nothing. A partition is the frames of some runs. Those of nodes go to
// all, since they explain what runs show; their problems are written by the
// partition that owns the node, and by others as far as runs of theirs are hit.
package pipeline

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/controlplane/detect"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/life"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const (
	// cursorName is the cursor's name in the store; that of a partition has its
	// number behind it.
	cursorName = "pipeline"
	// retryAfter is the first wait after an error; it doubles up to retryMost.
	retryAfter = 100 * time.Millisecond
	retryMost  = 10 * time.Second
)

// Bus is where the frames are.
type Bus interface {
	// Consume hands over the frames from a sequence on, in order, in batches as
	// they come, until ctx ends, which gives no error, or handle fails, which
	// gives its error.
	Consume(ctx context.Context, from uint64, handle func(context.Context, []bus.Delivery) error) error
}

// Store is where the records are.
type Store interface {
	// Update runs a transaction that writes, wholly or not at all.
	Update(ctx context.Context, do func(*store.Tx) error) error
	// View runs a transaction that reads.
	View(ctx context.Context, do func(*store.Tx) error) error
}

// Bank is the detectors of every run that goes on.
type Bank interface {
	// Observe gives what an event shows.
	Observe(event *commonv1.Event) []*controlv1.Finding
	// Standing gives which problems ended with the event observed last.
	Standing() detect.Standing
	// Ended gives the last findings of the problems of nodes that the event
	// observed last showed to be over.
	Ended() []*controlv1.Finding
	// Restore sets which problems of nodes are open, by their last findings. It
	// is called once, between what was seen before and what is new.
	Restore(open []*controlv1.Finding)
}

// Incidents makes findings into incidents and follows them.
type Incidents interface {
	// Apply takes in an event and the new findings that it led to.
	Apply(ctx context.Context, tx *store.Tx, event *commonv1.Event, findings []*controlv1.Finding) error
	// SeenNoMore takes in that problems of a run ended.
	SeenNoMore(ctx context.Context, tx *store.Tx, event *commonv1.Event, standing detect.Standing) error
	// Widen takes in that a problem of a node, whose finding another partition
	// wrote, hits more runs.
	Widen(tx *store.Tx, finding *controlv1.Finding) error
	// Over takes in that an event showed problems of nodes to be over, by their
	// last findings.
	Over(ctx context.Context, tx *store.Tx, event *commonv1.Event, ended []*controlv1.Finding) error
}

// Deps is what a pipeline needs; all of it but Partition, Owns, Busy and Audit.
type Deps struct {
	Bus Bus
	// Partition names the part of the bus that it reads; empty for all of it.
	Partition string
	// Owns tells which frames are this partition's. Others, of nodes that its runs
	// train on, are only looked at; nil means all.
	Owns      func(bus.Delivery) bool
	Store     Store
	NewBank   func() Bank // gives an empty one
	Incidents Incidents
	// Busy tells whether agents wait for their frames to be taken; nil: never.
	Busy func() bool
	// Audit writes an event that is to be seen in the audit log into the same
	// transaction; nil where there is no such log.
	Audit   func(*store.Tx, *commonv1.Event) error
	Clock   func() time.Time
	Log     *slog.Logger
	Tracer  trace.Tracer
	Metrics prometheus.Registerer
}

// Pipeline is the one reader of the bus, or of a partition of it, that writes
// events into the records.
type Pipeline struct {
	deps    Deps
	metrics metrics
	retry   time.Duration

	mu      sync.Mutex
	failure error     // what keeps it from going on; nil while it does
	behind  time.Time // when the frames came that it works on; zero while it has none
}

// New makes a pipeline.
func New(deps Deps) *Pipeline {
	if deps.Owns == nil {
		deps.Owns = func(bus.Delivery) bool { return true }
	}
	return &Pipeline{deps: deps, metrics: newMetrics(deps.Metrics), retry: retryAfter}
}

// Partitioned makes the pipelines of the partitions of a bus, which share the
// rest. Each is run by one process at a time.
func Partitioned(deps Deps, of *bus.Bus) []*Pipeline {
	var all []*Pipeline
	shared := newMetrics(deps.Metrics)
	for n := range of.Partitions() {
		reader := of.Partition(n)
		own := deps
		own.Bus, own.Owns = reader, reader.Owns
		if of.Partitions() > 1 {
			own.Partition = strconv.Itoa(n)
		}
		all = append(all, &Pipeline{deps: own, metrics: shared, retry: retryAfter})
	}
	return all
}

// Name names the pipeline, as its cursor in the store.
func (p *Pipeline) Name() string {
	if p.deps.Partition == "" {
		return cursorName
	}
	return cursorName + "/" + p.deps.Partition
}

// Run takes events until ctx ends. An error of the store or the bus is logged
// once and tried again, without end: the events wait on the bus.
func (p *Pipeline) Run(ctx context.Context) error {
	return life.Again(ctx, life.Retry{
		First: p.retry, Most: retryMost, Failed: p.failed,
		Worked: func() bool { return p.Healthy() == nil },
	}, func(ctx context.Context) error {
		quiet := time.AfterFunc(retryMost, p.worked) // no events came to show it
		defer quiet.Stop()
		err := p.consume(ctx)
		if ctx.Err() != nil {
			p.works(time.Time{}) // others do
		}
		if err != nil {
			return err
		}
		return fmt.Errorf("consume events: the bus ended")
	})
}

// Healthy gives nil, or what keeps the pipeline from going on.
func (p *Pipeline) Healthy() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failure
}

// Lag gives how long ago the frames came that the pipeline works on, or failed
// to; 0 while it has none, or another replica runs it.
func (p *Pipeline) Lag() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.behind.IsZero() {
		return 0
	}
	return max(0, p.deps.Clock().Sub(p.behind))
}

func (p *Pipeline) works(since time.Time) {
	p.mu.Lock()
	p.behind = since
	p.mu.Unlock()
}

// failed notes a failure and logs the first one of a series.
func (p *Pipeline) failed(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failure == nil {
		p.deps.Log.Error("events wait on the bus until this is over; trying again", "err", err)
	}
	p.failure = err
}

// worked notes a commit, or that nothing failed for a while.
func (p *Pipeline) worked() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failure != nil {
		p.deps.Log.Info("events are taken again")
	}
	p.failure = nil
}

// consume builds the detectors' state and takes events until ctx ends or
// something fails.
func (p *Pipeline) consume(ctx context.Context) error {
	r := &reader{Pipeline: p, bank: p.deps.NewBank()}
	from, err := r.start(ctx)
	if err != nil {
		return fmt.Errorf("read cursor: %w", err)
	}
	if err := p.deps.Bus.Consume(ctx, from, r.handle); err != nil {
		return fmt.Errorf("consume events from %d on: %w", from, err)
	}
	return nil
}
