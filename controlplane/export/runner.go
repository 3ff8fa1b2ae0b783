package export

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/vigil-ml/vigil/controlplane/audit/trail"
	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/life"
)

const (
	retryFirst = 200 * time.Millisecond
	retryMost  = 30 * time.Second
	// recordsAtOnce is how many records of the store are read together.
	recordsAtOnce = 500
	// pace is the least time between two batches that are not full, so that
	// events that trickle in go out together.
	pace = 500 * time.Millisecond
	// trouble is how long an exporter fails before people are told.
	trouble = 5 * time.Minute
)

// Bus is where events are.
type Bus interface {
	// Consume hands over the frames from a sequence on, in order, in batches as
	// they come, until ctx ends, which gives no error, or handle fails, which
	// gives its error.
	Consume(ctx context.Context, from uint64, handle func(context.Context, []bus.Delivery) error) error
}

// Store is where cursors and records are.
type Store interface {
	// Update runs a transaction that writes, wholly or not at all.
	Update(ctx context.Context, do func(*store.Tx) error) error
	// View runs a transaction that reads.
	View(ctx context.Context, do func(*store.Tx) error) error
	// Changed gives a channel that is closed after the next commit that touches
	// the topic.
	Changed(topic store.Topic) <-chan struct{}
}

// Trouble is told of an exporter that fails for long, and of its end.
type Trouble interface {
	// ExporterFailing opens an incident, or keeps the one that is open.
	ExporterFailing(ctx context.Context, exporter, cause string, since time.Time) error
	// ExporterWell ends it.
	ExporterWell(ctx context.Context, exporter string, at time.Time) error
}

// Limits is what users say of one exporter besides its kind's settings.
type Limits struct {
	// MaxAge is how long a document is tried.
	MaxAge time.Duration
	// DeadBytes bounds the file of dead letters.
	DeadBytes int64
	// Streams are what is exported.
	Streams map[string]bool
}

// Audit is where the audit log is.
type Audit interface {
	// Entries gives at most limit records from a place on, in their order.
	Entries(ctx context.Context, from uint64, limit int) ([]trail.Entry, error)
	// PublicKey names the log.
	PublicKey() string
}

// RunnerDeps is what a runner is given.
type RunnerDeps struct {
	Name     string
	Kind     string
	Exporter Exporter
	Bus      Bus
	Store    Store
	Audit    Audit  // needed for the stream of audit records only
	Dir      string // for dead letters
	Trouble  Trouble
	Metrics  *Metrics
	Log      *slog.Logger
	Clock    func() time.Time
}

// Runner feeds one exporter. Its methods are safe for concurrent use.
type Runner struct {
	limits Limits
	deps   RunnerDeps
	dead   *deadLetters

	mu      sync.Mutex
	lanes   map[string]*lane
	replays sync.Mutex // one replay at a time
}

// lane is how one source's way out is.
type lane struct {
	failing error
	since   time.Time
	told    bool
	oldest  time.Time // of the batch under way; zero between batches

	at    uint64 // the cursor, before the batch under way
	sent  uint64 // nothing behind it was ever sent; as it is stored
	doubt uint64 // what is up to it may have been sent before the lane was opened
}

// NewRunner makes a runner; Run starts it. Streams that the exporter does not
// take are left out.
func NewRunner(limits Limits, deps RunnerDeps) *Runner {
	limits.Streams = maps.Clone(limits.Streams)
	maps.DeleteFunc(limits.Streams, func(stream string, _ bool) bool { return !slices.Contains(deps.Exporter.Streams(), stream) })
	r := &Runner{limits: limits, deps: deps, lanes: map[string]*lane{}}
	r.dead = newDeadLetters(deps.Dir, deps.Name, limits.DeadBytes)
	for _, source := range r.sources() {
		r.lanes[source.name] = &lane{}
	}
	deps.Metrics.register(deps.Name)
	deps.Metrics.dead.WithLabelValues(deps.Name).Set(float64(r.dead.size()))
	return r
}

// announced is how far behind a batch it is noted that it may have been sent.
const announced = 512

// sentName names the place up to which may have been sent.
func sentName(exporter, source string) string { return CursorName(exporter, source) + "/sent" }

// CursorName is the name of an exporter's cursor in the store.
func CursorName(exporter, source string) string { return "export/" + exporter + "/" + source }

// Run exports until ctx ends; errors are tried again without end. It may be run
// again afterwards: another replica may have done it meanwhile.
func (r *Runner) Run(ctx context.Context) error {
	group := life.NewGroup(ctx)
	for _, source := range r.sources() {
		group.Go("export "+source.name+" to "+r.deps.Name, func(ctx context.Context) error {
			return life.Again(ctx, life.Retry{First: retryFirst, Most: retryMost, Failed: func(err error) { r.failed(ctx, source.name, err) }},
				func(ctx context.Context) error { return source.run(ctx, r) })
		})
	}
	return group.Wait()
}

// cursor opens a source's lane and gives where it goes on behind.
func (r *Runner) cursor(ctx context.Context, source string) (at uint64, err error) {
	var sent uint64
	err = r.deps.Store.View(ctx, func(tx *store.Tx) error {
		if at, err = tx.Cursor(CursorName(r.deps.Name, source)); err != nil {
			return err
		}
		sent, err = tx.Cursor(sentName(r.deps.Name, source))
		return err
	})
	if err != nil {
		return 0, err
	}
	if sent == 0 && at > 0 {
		sent = at + announced // an earlier release did not note it
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.lanes[source]
	l.at, l.sent, l.doubt = at, sent, sent
	return at, nil
}

// settle has documents delivered and then moves the source's cursor.
func (r *Runner) settle(ctx context.Context, source string, upTo uint64, documents []Document) error {
	if err := r.announce(ctx, source, upTo); err != nil {
		return err
	}
	if err := r.deliver(ctx, source, documents); err != nil {
		return err
	}
	if err := r.setCursor(ctx, CursorName(r.deps.Name, source), upTo); err != nil {
		return err
	}
	r.mu.Lock()
	r.lanes[source].at = upTo
	r.mu.Unlock()
	return nil
}

// announce notes in the store, before a batch is sent, how far will have been
// sent then, and some way further, so that it need not be noted often. Whoever
// comes after this process asks for what is up to there before it sends it again.
func (r *Runner) announce(ctx context.Context, source string, upTo uint64) error {
	r.mu.Lock()
	known := r.lanes[source].sent >= upTo
	r.mu.Unlock()
	if known {
		return nil
	}
	if err := r.setCursor(ctx, sentName(r.deps.Name, source), upTo+announced); err != nil {
		return err
	}
	r.mu.Lock()
	r.lanes[source].sent = upTo + announced
	r.mu.Unlock()
	return nil
}

func (r *Runner) setCursor(ctx context.Context, name string, at uint64) error {
	return r.deps.Store.Update(ctx, func(tx *store.Tx) error { return tx.SetCursor(name, at) })
}
