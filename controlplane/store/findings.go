package store

import (
	"database/sql"
	"fmt"

	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// findingColumns is what a record of a finding is read from.
const findingColumns = `SELECT f.body, f.incident_id, COALESCE(b.body, '') FROM findings f
	LEFT JOIN feedback b ON b.finding_id = f.finding_id WHERE `

// searched is how many of the newest findings are looked through for those of
// one kind.
const searched = 10_000

// Findings gives at most limit findings of a run, or of every run when it is
// empty, and of a kind, or of every kind, the newest first, with what people
// said of them; limit 0 means all.
func (tx *Tx) Findings(runID, kind string, limit int) ([]*controlv1.FindingRecord, error) {
	where := "$1 = ''"
	if runID != "" {
		where = "f.run_id = $1"
	}
	read := rowsUpTo(limit)
	if kind != "" {
		read = max(read, searched)
	}
	all, err := tx.findingRecords("findings", where+" ORDER BY f.event_time DESC, f.finding_id LIMIT $2", runID, read)
	if err != nil {
		return nil, err
	}
	kept := all[:0]
	for _, record := range all {
		if kind == "" || record.GetFinding().GetKind() == kind {
			kept = append(kept, record)
		}
	}
	return kept[:min(len(kept), rowsUpTo(limit))], nil
}

// Finding gives one finding, with what people said of it.
func (tx *Tx) Finding(id string) (*controlv1.FindingRecord, error) {
	what := "finding " + id
	found, err := tx.findingRecords(what, "f.finding_id = $1", id)
	if err == nil && len(found) == 0 {
		err = notFound(what)
	}
	if err != nil {
		return nil, err
	}
	return found[0], nil
}

// PutFeedback keeps what a person says of a finding, in place of what was said
// before. It fails with [fault.NotFound] when there is no such finding.
func (tx *Tx) PutFeedback(findingID string, feedback *controlv1.Feedback) error {
	if _, err := tx.Finding(findingID); err != nil {
		return err
	}
	body, err := tx.marshal(feedback)
	if err != nil {
		return err
	}
	_, err = tx.exec(`INSERT INTO feedback (finding_id, body) VALUES ($1, $2)
		ON CONFLICT (finding_id) DO UPDATE SET body = excluded.body`, findingID, body)
	if err != nil {
		return fmt.Errorf("put feedback on finding %s: %w", findingID, err)
	}
	tx.touch(TopicIncidents)
	return nil
}

func (tx *Tx) findingRecords(what, where string, args ...any) ([]*controlv1.FindingRecord, error) {
	var all []*controlv1.FindingRecord
	err := tx.each(what, findingColumns+where, args, func(rows *sql.Rows) error {
		record := &controlv1.FindingRecord{Finding: &controlv1.Finding{}}
		var body, feedback []byte
		if err := rows.Scan(&body, &record.IncidentId, &feedback); err != nil {
			return err
		}
		all = append(all, record)
		if err := tx.unmarshal(what, body, record.Finding); err != nil || len(feedback) == 0 {
			return err
		}
		record.Feedback = &controlv1.Feedback{}
		return tx.unmarshal("feedback on "+what, feedback, record.Feedback)
	})
	return all, err
}
