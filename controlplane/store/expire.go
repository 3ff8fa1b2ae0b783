package store

import (
	"database/sql"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Cutoffs are the times before which records may be let go of; a zero one lets
// none go.
type Cutoffs struct {
	Incidents time.Time // resolved before it
	Findings  time.Time // of no incident, and found before it
	Runs      time.Time // ended before it
}

// Expired is how many records were let go of.
type Expired struct{ Incidents, Findings, Runs int64 }

// Any tells whether there were some.
func (e Expired) Any() bool { return e.Incidents+e.Findings+e.Runs > 0 }

// What is asked of records that may go. What is still needed stays, however old
// it is: all of a run that goes on, incidents of which someone is still to be
// told, findings that say that a node's problem is open, and runs as long as
// they have incidents, findings or commands that are not done.
const (
	oldIncidents = `SELECT i.incident_id FROM incidents i WHERE i.opened < $1 AND i.resolved <> 0 AND i.resolved < $1
		AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.run_id = i.run_id AND r.ended = 0)
		AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.incident_id = i.incident_id AND o.state = 1)
		AND NOT EXISTS (SELECT 1 FROM alert_members m WHERE m.incident_id = i.incident_id)
		ORDER BY i.opened LIMIT $2`
	oldFindings = `SELECT f.finding_id FROM findings f WHERE f.event_time < $1 AND f.incident_id = ''
		AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.run_id = f.run_id AND r.ended = 0)
		AND NOT EXISTS (SELECT 1 FROM node_problems p WHERE p.finding_id = f.finding_id)
		ORDER BY f.event_time LIMIT $2`
	oldRuns = `SELECT r.run_id FROM runs r WHERE r.started < $1 AND r.ended <> 0 AND r.ended < $1
		AND NOT EXISTS (SELECT 1 FROM incidents i WHERE i.run_id = r.run_id AND i.run_id <> '')
		AND NOT EXISTS (SELECT 1 FROM findings f WHERE f.run_id = r.run_id)
		AND NOT EXISTS (SELECT 1 FROM commands c WHERE c.run_id = r.run_id AND c.state < 10)
		ORDER BY r.started LIMIT $2`
)

// Expire lets go of records that are old enough, at most so many of each kind,
// with all that belongs to them: an incident's findings, timeline and
// notifications, a finding's feedback, a run's attempts, checkpoints and
// commands. The files of checkpoints are not the store's, and stay.
func (tx *Tx) Expire(c Cutoffs, limit int) (gone Expired, err error) {
	if err := tx.flushRuns(); err != nil {
		return gone, err
	}
	for _, kind := range []struct {
		name, which string
		before      time.Time
		remove      func(ids []any) error
		gone        *int64
	}{
		{"incidents", oldIncidents, c.Incidents, tx.removeIncidents, &gone.Incidents},
		{"findings", oldFindings, c.Findings, tx.removeFindings, &gone.Findings},
		{"runs", oldRuns, c.Runs, tx.removeRuns, &gone.Runs},
	} {
		if kind.before.IsZero() {
			continue
		}
		var ids []any
		err := tx.each("old "+kind.name, kind.which, []any{nanos(kind.before), limit}, func(rows *sql.Rows) error {
			var id string
			err := rows.Scan(&id)
			ids = append(ids, id)
			return err
		})
		if err == nil && len(ids) > 0 {
			err = kind.remove(ids)
		}
		if err != nil {
			return gone, fmt.Errorf("expire %s: %w", kind.name, err)
		}
		*kind.gone = int64(len(ids))
	}
	if gone.Incidents > 0 {
		tx.touch(TopicIncidents)
	}
	if gone.Runs > 0 {
		tx.touch(TopicRuns)
	}
	return gone, nil
}

func (tx *Tx) removeIncidents(ids []any) error { return tx.removeEach(ids, ofIncidents()) }

func (tx *Tx) removeFindings(ids []any) error { return tx.removeEach(ids, ofFindings()) }

func (tx *Tx) removeRuns(ids []any) error { return tx.removeEach(ids, ofRuns()) }

// ofIncidents is what goes with incidents; the mark stands for their ids.
func ofIncidents() []string {
	return []string{
		"feedback WHERE finding_id IN (SELECT finding_id FROM findings WHERE incident_id IN (?))",
		// What receivers keep of it: see notify.Memory.
		"receiver_memory WHERE (receiver, key) IN (SELECT receiver, incident_id || '/' || receiver FROM outbox WHERE incident_id IN (?))",
		"receiver_memory WHERE (receiver, key) IN (SELECT receiver, 'changes/' || incident_id FROM outbox WHERE incident_id IN (?))",
		"findings WHERE incident_id IN (?)", "timeline WHERE incident_id IN (?)", "outbox WHERE incident_id IN (?)",
		"incident_checkpoints WHERE incident_id IN (?)", "inhibitors WHERE incident_id IN (?)", "incidents WHERE incident_id IN (?)",
	}
}

func ofFindings() []string {
	return []string{"feedback WHERE finding_id IN (?)", "findings WHERE finding_id IN (?)"}
}

func ofRuns() []string {
	const checkpoints = "checkpoint_id IN (SELECT checkpoint_id FROM checkpoints WHERE run_id IN (?))"
	return []string{
		"checkpoint_ranks WHERE " + checkpoints, "checkpoint_stages WHERE " + checkpoints, "checkpoint_tasks WHERE " + checkpoints,
		"checkpoints WHERE run_id IN (?)", "commands WHERE run_id IN (?)", "attempts WHERE run_id IN (?)",
		"relaunches WHERE run_id IN (?)", "agreement_notes WHERE run_id IN (?)", "runs WHERE run_id IN (?)",
	}
}

// removeEach deletes from tables; the mark stands for the ids.
func (tx *Tx) removeEach(ids []any, from []string) error {
	marks := make([]string, len(ids))
	for i := range ids {
		marks[i] = "$" + strconv.Itoa(i+1)
	}
	for _, what := range from {
		if _, err := tx.exec("DELETE FROM "+strings.Replace(what, "?", strings.Join(marks, ", "), 1), ids...); err != nil {
			return err
		}
	}
	return nil
}
