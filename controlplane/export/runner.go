package export

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

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

// RunnerDeps is what a runner is given.
type RunnerDeps struct {
	Name     string
	Kind     string
	Exporter Exporter
	Bus      Bus
	Store    Store
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
	fresh   bool      // nothing was sent since the start: what is first may be there already
}

// NewRunner makes a runner; Run starts it.
func NewRunner(limits Limits, deps RunnerDeps) *Runner {
	r := &Runner{limits: limits, deps: deps, lanes: map[string]*lane{}}
	r.dead = newDeadLetters(deps.Dir, deps.Name, limits.DeadBytes)
	for _, source := range []string{sourceEvents, sourceRecords} {
		r.lanes[source] = &lane{fresh: true}
	}
	deps.Metrics.register(deps.Name)
	deps.Metrics.dead.WithLabelValues(deps.Name).Set(float64(r.dead.size()))
	return r
}

// Sources; each has a cursor of its own.
const (
	sourceEvents  = "events"
	sourceRecords = "records"
)

// CursorName is the name of an exporter's cursor in the store.
func CursorName(exporter, source string) string { return "export/" + exporter + "/" + source }

// Run exports until ctx ends; errors are tried again without end.
func (r *Runner) Run(ctx context.Context) error {
	defer func() { _ = r.deps.Exporter.Close() }()
	group := life.NewGroup(ctx)
	if r.limits.Streams[StreamEvents] {
		group.Go("export events to "+r.deps.Name, r.again(sourceEvents, r.events))
	}
	if r.limits.Streams[StreamFindings] || r.limits.Streams[StreamIncidents] {
		group.Go("export records to "+r.deps.Name, r.again(sourceRecords, r.records))
	}
	return group.Wait()
}

// again runs a source's loop anew after errors of the bus or the store.
func (r *Runner) again(source string, loop func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		wait := retryFirst
		for {
			began := r.deps.Clock()
			err := loop(ctx)
			if ctx.Err() != nil {
				return nil
			}
			if err == nil {
				err = fmt.Errorf("read %s: the source ended", source)
			}
			r.failed(ctx, source, err)
			if r.deps.Clock().Sub(began) > retryMost {
				wait = retryFirst
			}
			if !life.Sleep(ctx, wait) {
				return nil
			}
			wait = min(2*wait, retryMost)
		}
	}
}

// events exports the bus.
func (r *Runner) events(ctx context.Context) error {
	cursor, err := r.cursor(ctx, sourceEvents)
	if err != nil {
		return err
	}
	return r.deps.Bus.Consume(ctx, cursor+1, func(ctx context.Context, frames []bus.Delivery) error {
		began := r.deps.Clock()
		var documents []Document
		for _, frame := range frames {
			of, err := eventDocuments(frame)
			if err != nil {
				r.deps.Log.Error("frame cannot be exported and is skipped", "exporter", r.deps.Name, "sequence", frame.Sequence, "error", err)
				continue
			}
			documents = append(documents, of...)
		}
		last := frames[len(frames)-1].Sequence
		if err := r.settle(ctx, sourceEvents, last, documents); err != nil {
			return err
		}
		if len(frames) < bus.MaxDeliveries/2 {
			life.Sleep(ctx, pace-r.deps.Clock().Sub(began))
		}
		return nil
	})
}

// records exports what the store recorded.
func (r *Runner) records(ctx context.Context) error {
	cursor, err := r.cursor(ctx, sourceRecords)
	if err != nil {
		return err
	}
	for {
		changed := r.deps.Store.Changed(store.TopicExports)
		var records []store.ExportRecord
		err := r.deps.Store.View(ctx, func(tx *store.Tx) (err error) {
			records, err = tx.ExportRecords(cursor, recordsAtOnce)
			return err
		})
		if err != nil {
			return err
		}
		if len(records) == 0 {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		var documents []Document
		for _, record := range records {
			document, err := recordDocument(record)
			if err != nil {
				r.deps.Log.Error("record cannot be exported and is skipped", "exporter", r.deps.Name, "error", err)
				continue
			}
			if r.limits.Streams[document.Stream] {
				documents = append(documents, document)
			}
		}
		cursor = records[len(records)-1].Sequence
		if err := r.settle(ctx, sourceRecords, cursor, documents); err != nil {
			return err
		}
	}
}

func (r *Runner) cursor(ctx context.Context, source string) (at uint64, err error) {
	err = r.deps.Store.View(ctx, func(tx *store.Tx) error {
		at, err = tx.Cursor(CursorName(r.deps.Name, source))
		return err
	})
	return at, err
}

// settle has documents delivered and then moves the source's cursor.
func (r *Runner) settle(ctx context.Context, source string, upTo uint64, documents []Document) error {
	if err := r.deliver(ctx, source, documents); err != nil {
		return err
	}
	err := r.deps.Store.Update(ctx, func(tx *store.Tx) error {
		return tx.SetCursor(CursorName(r.deps.Name, source), upTo)
	})
	if err != nil {
		r.mu.Lock()
		r.lanes[source].fresh = true // they come again
		r.mu.Unlock()
	}
	return err
}
