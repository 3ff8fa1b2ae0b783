package store

import (
	"database/sql"
	"fmt"
	"time"

	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
)

// agreementKept is how long notes stay that no later round took the place of.
const agreementKept = 7 * 24 * time.Hour

// PostAgreement writes a note of a run, unless it is there, and tells whether it
// was not. Notes of rounds that nobody reads any more go: those before the round
// before it, and those that are old.
func (tx *Tx) PostAgreement(runID string, note *agentv1.AgreementNote) (posted bool, err error) {
	rows, err := tx.exec(`INSERT INTO agreement_notes (run_id, round, name, place, content, written)
		SELECT $1, $2, $3, COALESCE(MAX(place), 0) + 1, $4, $5 FROM agreement_notes WHERE run_id = $1
		ON CONFLICT (run_id, round, name) DO NOTHING`,
		runID, int64(note.GetRound()), note.GetName(), append([]byte{}, note.GetContent()...), nanos(tx.now))
	if err != nil {
		return false, fmt.Errorf("write agreement note of run %s: %w", runID, err)
	}
	if rows == 0 {
		return false, nil
	}
	// The last of each run stays, whatever its age: places go on from it, and who
	// reads behind one must not miss what comes.
	_, err = tx.exec(`DELETE FROM agreement_notes WHERE (run_id = $1 AND round < $2) OR (written < $3 AND place <
		(SELECT MAX(newer.place) FROM agreement_notes newer WHERE newer.run_id = agreement_notes.run_id))`,
		runID, int64(note.GetRound())-1, nanos(tx.now.Add(-agreementKept)))
	if err != nil {
		return false, fmt.Errorf("remove agreement notes: %w", err)
	}
	tx.touch(TopicAgreement)
	return true, nil
}

// Agreement gives a run's notes behind a place, in their order.
func (tx *Tx) Agreement(runID string, after int64) ([]*agentv1.AgreementNote, error) {
	var notes []*agentv1.AgreementNote
	err := tx.each("agreement notes of run "+runID, `SELECT round, name, place, content FROM agreement_notes
		WHERE run_id = $1 AND place > $2 ORDER BY place`, []any{runID, after}, func(rows *sql.Rows) error {
		n, round := &agentv1.AgreementNote{}, int64(0)
		err := rows.Scan(&round, &n.Name, &n.Place, &n.Content)
		n.Round = uint32(round)
		notes = append(notes, n)
		return err
	})
	return notes, err
}
