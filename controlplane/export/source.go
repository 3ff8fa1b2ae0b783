package export

import (
	"context"

	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/life"
)

// source is where documents come from. Each has a cursor of its own.
type source struct {
	name string
	run  func(ctx context.Context, r *Runner) error // until ctx ends or something fails
}

// Names of sources.
const (
	sourceEvents  = "events"
	sourceRecords = "records"
	sourceAudit   = "audit"
)

func eventStreams() []string {
	return []string{StreamEvents, StreamLogs, StreamTraces, StreamMetrics}
}

func recordStreams() []string {
	return []string{StreamFindings, StreamIncidents, StreamLogs, StreamTraces, StreamMetrics}
}

// sources are those that the exporter's streams come from.
func (r *Runner) sources() []source {
	var all []source
	if r.takes(eventStreams()...) {
		all = append(all, source{sourceEvents, exportEvents})
	}
	if r.takes(recordStreams()...) {
		all = append(all, source{sourceRecords, exportRecords})
	}
	if r.takes(StreamAudit) && r.deps.Audit != nil {
		all = append(all, source{sourceAudit, exportAudit})
	}
	return all
}

// takes tells whether any of the streams is exported.
func (r *Runner) takes(streams ...string) bool {
	for _, stream := range streams {
		if r.limits.Streams[stream] {
			return true
		}
	}
	return false
}

// exportEvents exports the bus.
func exportEvents(ctx context.Context, r *Runner) error {
	cursor, err := r.cursor(ctx, sourceEvents)
	if err != nil {
		return err
	}
	return r.deps.Bus.Consume(ctx, cursor+1, func(ctx context.Context, frames []bus.Delivery) error {
		began := r.deps.Clock()
		var documents []Document
		for _, frame := range frames {
			of, err := eventDocuments(frame, r.takes)
			if err != nil {
				r.deps.Log.Error("what of a frame cannot be exported is skipped", "exporter", r.deps.Name, "sequence", frame.Sequence, "error", err)
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

// exportRecords exports what the store recorded.
func exportRecords(ctx context.Context, r *Runner) error {
	return r.follow(ctx, sourceRecords, store.TopicExports, func(cursor uint64) (page, error) {
		var records []store.ExportRecord
		err := r.deps.Store.View(ctx, func(tx *store.Tx) (err error) {
			records, err = tx.ExportRecords(cursor, recordsAtOnce)
			return err
		})
		var documents []Document
		for _, record := range records {
			of, err := recordDocuments(record, r.takes)
			if err != nil {
				r.deps.Log.Error("record cannot be exported and is skipped", "exporter", r.deps.Name, "error", err)
			}
			documents, cursor = append(documents, of...), record.Sequence
		}
		return page{documents, cursor, len(records)}, err
	})
}

// exportAudit exports the audit log; its cursor counts the records that are
// exported, the first of which is at place 0.
func exportAudit(ctx context.Context, r *Runner) error {
	return r.follow(ctx, sourceAudit, store.TopicAudit, func(cursor uint64) (page, error) {
		entries, err := r.deps.Audit.Entries(ctx, cursor, recordsAtOnce)
		var documents []Document
		for _, entry := range entries {
			document, err := auditDocument(entry, r.deps.Audit.PublicKey(), r.deps.Clock())
			if err != nil {
				r.deps.Log.Error("audit record cannot be exported and is skipped", "exporter", r.deps.Name, "record", entry.Seq, "error", err)
			} else {
				documents = append(documents, document)
			}
			cursor = entry.Seq + 1
		}
		return page{documents, cursor, len(entries)}, err
	})
}

// page is what was read of a table at once: the cursor behind it, and how many rows
// the documents are of, some of which may be of streams that are not taken.
type page struct {
	documents []Document
	cursor    uint64
	rows      int
}

// follow exports a table: what is there behind the cursor, then what comes. Read
// gives what is behind a cursor; the same cursor means that there is nothing.
func (r *Runner) follow(ctx context.Context, name string, topic store.Topic, read func(cursor uint64) (page, error)) error {
	cursor, err := r.cursor(ctx, name)
	if err != nil {
		return err
	}
	for {
		changed, began := r.deps.Store.Changed(topic), r.deps.Clock()
		next, err := read(cursor)
		if err != nil {
			return err
		}
		if next.cursor == cursor {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		cursor = next.cursor
		if err := r.settle(ctx, name, cursor, next.documents); err != nil {
			return err
		}
		if next.rows < recordsAtOnce/2 {
			life.Sleep(ctx, min(pace, pace-r.deps.Clock().Sub(began)))
		}
	}
}
