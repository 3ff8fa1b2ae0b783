package store

import (
	"bytes"
	"database/sql"
	"fmt"
	"time"

	"github.com/vigil-ml/vigil/internal/fault"
)

// Kinds of [ExportRecord].
const (
	ExportFinding  = "finding"
	ExportIncident = "incident"
)

// exportHead is the cursor that counts export records.
const exportHead = "export.head"

// ExportRecord is a change that exporters hand on.
type ExportRecord struct {
	Sequence uint64 // from 1, without gaps, in the order of the commits
	Kind     string // what Body is: a control/v1 Finding or Incident
	ID       string // of the finding or the incident
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
	if err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	if err == nil && bytes.Equal(before, body) {
		return nil
	}
	return tx.record(ExportIncident, id, body)
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
