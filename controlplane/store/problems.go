package store

import (
	"fmt"
	"time"

	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// PutNodeProblem notes that a problem of a node is open, by its last finding.
func (tx *Tx) PutNodeProblem(f *controlv1.Finding) error {
	body, err := marshal(f)
	if err != nil {
		return err
	}
	_, err = tx.exec(`INSERT INTO node_problems (node, problem, finding_id, event_time, body) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (node, problem) DO UPDATE SET finding_id = excluded.finding_id,
		event_time = excluded.event_time, body = excluded.body`,
		f.GetNode(), f.GetProblem(), f.GetFindingId(), nanosOf(f.GetEventTime()), body)
	if err != nil {
		return fmt.Errorf("put problem %s of node %s: %w", f.GetProblem(), f.GetNode(), err)
	}
	return nil
}

// EndNodeProblem notes that a problem of a node is over.
func (tx *Tx) EndNodeProblem(node, problem string) error {
	if _, err := tx.exec("DELETE FROM node_problems WHERE node = $1 AND problem = $2", node, problem); err != nil {
		return fmt.Errorf("end problem %s of node %s: %w", problem, node, err)
	}
	return nil
}

// NodeProblems gives the last findings of the open problems of a node, or of
// every node when it is empty, the oldest first.
func (tx *Tx) NodeProblems(node string) ([]*controlv1.Finding, error) {
	where := "node = $1"
	if node == "" {
		where = "$1 = ''"
	}
	return list[controlv1.Finding](tx, "problems of nodes",
		"SELECT body FROM node_problems WHERE "+where+" ORDER BY event_time, node, problem", node)
}

// OpenProblems counts the problems of nodes that belong to an incident and are
// not over.
func (tx *Tx) OpenProblems(incidentID string) (count int64, err error) {
	err = tx.one("problems of incident "+incidentID, `SELECT COUNT(*) FROM node_problems p
		JOIN findings f ON f.finding_id = p.finding_id WHERE f.incident_id = $1`, []any{incidentID}, &count)
	return count, err
}

// IncidentOf gives the record of the incident that a finding belongs to; false
// when it belongs to none.
func (tx *Tx) IncidentOf(findingID string) (IncidentRecord, bool, error) {
	var id string
	err := tx.one("finding "+findingID, "SELECT incident_id FROM findings WHERE finding_id = $1", []any{findingID}, &id)
	if id == "" || err != nil {
		if fault.Is(err, fault.NotFound) {
			err = nil
		}
		return IncidentRecord{}, false, err
	}
	r, err := tx.IncidentRecord(id)
	return r, err == nil, err
}

// OpenNodeIncidents gives the incidents of a node that are not resolved, the
// oldest first.
func (tx *Tx) OpenNodeIncidents(node string) ([]IncidentRecord, error) {
	return tx.incidentRecords("open incidents of node "+node,
		"node = $1 AND node <> '' AND resolved = 0 ORDER BY opened, incident_id", node)
}

// NodeIncidents gives at most limit incidents of a node, the newest first,
// without findings, timeline and notifications.
func (tx *Tx) NodeIncidents(node string, limit int) ([]*controlv1.Incident, error) {
	return list[controlv1.Incident](tx, "incidents of node "+node,
		"SELECT body FROM incidents WHERE node = $1 AND node <> '' ORDER BY opened DESC, incident_id DESC LIMIT $2", node, rowsUpTo(limit))
}

// MarkReplay notes when a frame came, and forgets the marks that are older than
// keep but for the last of them.
func (tx *Tx) MarkReplay(sequence uint64, received time.Time, keep time.Duration) error {
	_, err := tx.exec("INSERT INTO replay_marks (sequence, received) VALUES ($1, $2) ON CONFLICT (sequence) DO NOTHING",
		int64(sequence), nanos(received))
	if err == nil {
		_, err = tx.exec(`DELETE FROM replay_marks WHERE sequence < COALESCE(
			(SELECT MAX(sequence) FROM replay_marks WHERE received <= $1), 0)`, nanos(received.Add(-keep)))
	}
	if err != nil {
		return fmt.Errorf("mark frame %d: %w", sequence, err)
	}
	return nil
}

// ReplayMark gives the place on the bus from which on at least the last frames
// of a length of time lie, or all that are marked; 0 when none is.
func (tx *Tx) ReplayMark(length time.Duration) (sequence uint64, err error) {
	err = tx.one("replay mark", `SELECT COALESCE(MAX(sequence), (SELECT COALESCE(MIN(sequence), 0) FROM replay_marks))
		FROM replay_marks WHERE received <= (SELECT MAX(received) FROM replay_marks) - $1`, []any{int64(length)}, &sequence)
	return sequence, err
}
