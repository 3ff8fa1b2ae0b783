package store

import (
	"database/sql"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// LookForFindings has at hand which of many findings are there already, for
// [Tx.PutFinding], which else looks for each by itself; the rows of new ones are
// then written many at a time.
func (tx *Tx) LookForFindings(ids ...string) error {
	for some := range slices.Chunk(ids, asked) {
		for _, id := range some {
			tx.cache.there[id] = false
		}
		err := tx.each("findings", "SELECT finding_id FROM findings WHERE finding_id IN "+among, manyOf(some), func(rows *sql.Rows) error {
			var id string
			err := rows.Scan(&id)
			tx.cache.there[id] = true
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// PutFinding writes a finding; false when it is there already. It may be
// changed afterwards by [Tx.ChangeFinding] alone.
func (tx *Tx) PutFinding(f *controlv1.Finding) (inserted bool, err error) {
	id := f.GetFindingId()
	there, looked := tx.cache.there[id]
	if there {
		return false, nil
	}
	body, err := marshal(f)
	if err != nil {
		return false, err
	}
	row := []any{id, "", f.GetRunId(), f.GetOnsetStep(), f.GetSeverity(), nanosOf(f.GetEventTime()), body}
	if looked {
		tx.later(findingRows, id, row...)
	} else if rows, err := tx.exec(findingRows.statement(1, tx.traits.unnamed), row...); err != nil {
		return false, fmt.Errorf("put finding %s: %w", id, err)
	} else if rows == 0 {
		return false, nil
	}
	tx.cache.there[id], tx.cache.findings[id] = true, f
	return true, tx.record(ExportFinding, id, body)
}

// ChangeFinding writes a finding anew that is there.
func (tx *Tx) ChangeFinding(f *controlv1.Finding) error {
	body, err := marshal(f)
	if err != nil {
		return err
	}
	delete(tx.cache.findings, f.GetFindingId())
	for id := range tx.cache.causes {
		tx.cache.causes[id] = nil
	}
	if _, err := tx.exec("UPDATE findings SET body = $1 WHERE finding_id = $2", body, f.GetFindingId()); err != nil {
		return fmt.Errorf("change finding %s: %w", f.GetFindingId(), err)
	}
	return nil
}

// AttachFinding makes a finding part of an incident.
func (tx *Tx) AttachFinding(incidentID, findingID string) error {
	tx.touch(TopicIncidents)
	if _, opened := tx.cache.opened[incidentID]; opened {
		_, second := tx.cache.causes[incidentID]
		tx.cache.causes[incidentID] = tx.cache.findings[findingID]
		if second {
			tx.cache.causes[incidentID] = nil
		}
	}
	if tx.change(findingRows, findingID, func(row []any) { row[1] = incidentID }) {
		return nil
	}
	_, err := tx.exec("UPDATE findings SET incident_id = $1 WHERE finding_id = $2", incidentID, findingID)
	if err != nil {
		return fmt.Errorf("attach finding %s to incident %s: %w", findingID, incidentID, err)
	}
	return nil
}

// Cause gives the finding that an incident began with: a node's before a run's,
// then the one with the least onset step, then the most severe, then the first.
func (tx *Tx) Cause(incidentID string) (*controlv1.Finding, error) {
	if only := tx.cache.causes[incidentID]; only != nil {
		return proto.CloneOf(only), nil
	}
	found, err := tx.findings(incidentID, 1)
	if err == nil && len(found) == 0 {
		err = notFound("findings of incident " + incidentID)
	}
	if err != nil {
		return nil, err
	}
	return found[0], nil
}

func (tx *Tx) findings(incidentID string, limit int) ([]*controlv1.Finding, error) {
	return list[controlv1.Finding](tx, "findings of incident "+incidentID, `SELECT body FROM findings
		WHERE incident_id = $1 ORDER BY run_id <> '', onset_step, severity DESC, event_time, finding_id LIMIT $2`, incidentID, limit)
}
