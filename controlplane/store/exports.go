package store

import (
	"bytes"
	"database/sql"
	"fmt"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Kinds of [ExportRecord].
const (
	ExportFinding   = "finding"
	ExportIncident  = "incident"
	ExportTelemetry = "telemetry"
)

// exportHead is the cursor that counts export records.
const exportHead = "export.head"

// ExportRecord is a change that exporters hand on.
type ExportRecord struct {
	Sequence uint64 // from 1, without gaps, in the order of the commits
	Kind     string // what Body is: a control/v1 Finding or Incident, or a common/v1 Telemetry
	ID       string // of the finding, the incident or the batch
	Recorded time.Time
	Body     []byte
}

// record keeps a change for the exporters, where there are any. The counter's
// row makes whoever records wait for each other, so that no sequence becomes
// visible behind a later one.
func (tx *Tx) record(kind, id string, body []byte) error {
	if !tx.exports {
		return nil
	}
	var sequence int64
	err := tx.one("count of export records", `INSERT INTO cursors (name, sequence) VALUES ($1, 1)
		ON CONFLICT (name) DO UPDATE SET sequence = cursors.sequence + 1 RETURNING sequence`, []any{exportHead}, &sequence)
	if err != nil {
		return err
	}
	if body, err = tx.seal(exportTypeOf(kind), body); err != nil {
		return err
	}
	_, err = tx.exec("INSERT INTO export_records (sequence, kind, id, recorded, body) VALUES ($1, $2, $3, $4, $5)",
		sequence, kind, id, nanos(tx.now), body)
	if err != nil {
		return fmt.Errorf("record %s %s for export: %w", kind, id, err)
	}
	tx.touch(TopicExports)
	return nil
}

// recordIncident keeps an incident's state unless it is as it was.
func (tx *Tx) recordIncident(id string, body []byte) error {
	if !tx.exports {
		return nil
	}
	var before []byte
	err := tx.one("incident "+id, "SELECT body FROM incidents WHERE incident_id = $1", []any{id}, &before)
	if err == nil {
		before, err = tx.open("incident "+id, exportTypeOf(ExportIncident), before)
	}
	if err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	if err == nil && bytes.Equal(before, body) {
		return nil
	}
	return tx.record(ExportIncident, id, body)
}

// RecordTelemetry keeps what a control plane says of itself for the exporters,
// under an id of its own.
func (tx *Tx) RecordTelemetry(id string, said *commonv1.Telemetry) error {
	body, err := marshal(said)
	if err != nil {
		return err
	}
	return tx.record(ExportTelemetry, id, body)
}

// BoundTelemetry forgets what control planes said of themselves, the oldest
// first, until at most so many bytes are kept, and gives how many batches went.
func (tx *Tx) BoundTelemetry(bytes int64) (dropped int64, err error) {
	dropped, err = tx.exec(`DELETE FROM export_records WHERE kind = $1 AND sequence <= COALESCE((
		SELECT MAX(sequence) FROM (
			SELECT sequence, SUM(LENGTH(body)) OVER (ORDER BY sequence DESC) AS kept FROM export_records WHERE kind = $1
		) AS sizes WHERE kept > $2), 0)`, ExportTelemetry, bytes)
	if err != nil {
		return 0, fmt.Errorf("bound telemetry to %d bytes: %w", bytes, err)
	}
	return dropped, nil
}

// ExportRecords gives at most limit records behind a sequence, in their order.
func (tx *Tx) ExportRecords(after uint64, limit int) ([]ExportRecord, error) {
	var all []ExportRecord
	err := tx.each("export records",
		"SELECT sequence, kind, id, recorded, body FROM export_records WHERE sequence > $1 ORDER BY sequence LIMIT $2",
		[]any{int64(after), rowsUpTo(limit)}, func(rows *sql.Rows) error {
			var r ExportRecord
			var recorded int64
			err := rows.Scan(&r.Sequence, &r.Kind, &r.ID, &recorded, &r.Body)
			r.Recorded = timeOf(recorded)
			if err == nil {
				r.Body, err = tx.open("export record", exportTypeOf(r.Kind), r.Body)
			}
			all = append(all, r)
			return err
		})
	return all, err
}

// DropExportRecords forgets the records up to a sequence.
func (tx *Tx) DropExportRecords(upTo uint64) error {
	if _, err := tx.exec("DELETE FROM export_records WHERE sequence <= $1", int64(upTo)); err != nil {
		return fmt.Errorf("drop export records up to %d: %w", upTo, err)
	}
	return nil
}

// exportTypeOf gives the message that records of a kind are, where they are
// encrypted.
func exportTypeOf(kind string) protoreflect.FullName {
	if kind == ExportIncident {
		return nameOf(&controlv1.Incident{})
	}
	return ""
}
