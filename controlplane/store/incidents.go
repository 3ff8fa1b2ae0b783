package store

import (
	"database/sql"
	"fmt"
	"slices"
	"strconv"
	"time"

	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// FindingsShown is how many of an incident's findings [Tx.Incident] gives: a
// thousand ranks may have the same problem.
const FindingsShown = 32

// IncidentRecord is an incident with what decides what belongs to it.
type IncidentRecord struct {
	Incident  *controlv1.Incident // without findings, timeline and notifications
	Attempt   uint32              // the attempt in which it came last
	OnsetStep int64               // the greatest onset step of its findings: behind it the run is well again
	Findings  int64               // how many findings it has

	Occurrences   int64     // how often its problem came: 1, and one more for each attempt that met it again
	Latest        string    // the finding that it came with last
	ResolvedEvent time.Time // when the event happened that resolved it last; zero while none did

	Fingerprint string    // of the labels of an external alert; empty for what Vigil found itself
	Expires     time.Time // when it is over unless somebody says again that it fires; zero is never
	Reopened    int64     // how often it was reopened since it last kept still
	Changed     time.Time // when it was last opened, reopened or resolved
}

// Opens says that an incident of an id that there was not before is going to be
// put: nothing in the store refers to it yet, so that nothing need be looked for.
func (tx *Tx) Opens(incidentID string) {
	if _, twice := tx.cache.opened[incidentID]; !twice {
		tx.cache.opened[incidentID] = 0
	}
}

// OpenIncident is PutIncident for one that there was not before; see [Tx.Opens].
func (tx *Tx) OpenIncident(r IncidentRecord) error {
	tx.Opens(r.Incident.GetIncidentId())
	return tx.PutIncident(r)
}

// PutIncident writes an incident. Its findings, timeline and notifications are
// not taken from the message: they have rows of their own. Its labels and
// annotations may be replaced afterwards but not changed.
func (tx *Tx) PutIncident(r IncidentRecord) error {
	i := r.Incident
	bare := controlv1.Incident{
		IncidentId: i.GetIncidentId(), RunId: i.GetRunId(), Kind: i.GetKind(), Severity: i.GetSeverity(),
		State: i.GetState(), Summary: i.GetSummary(), Opened: i.GetOpened(), Resolved: i.GetResolved(),
		Labels: i.GetLabels(), Annotations: i.GetAnnotations(), GeneratorUrl: i.GetGeneratorUrl(),
		AcknowledgedBy: i.GetAcknowledgedBy(),
		Node:           i.GetNode(), AffectedRuns: i.GetAffectedRuns(),
	}
	body, err := marshal(&bare)
	if err != nil {
		return err
	}
	if err := tx.recordIncident(i.GetIncidentId(), body); err != nil {
		return err
	}
	if body, err = tx.seal(nameOf(&bare), body); err != nil {
		return err
	}
	tx.touch(TopicIncidents)
	delete(tx.cache.quiet, i.GetRunId())
	delete(tx.cache.fresh, i.GetRunId())
	delete(tx.cache.none, ofKind{i.GetRunId(), i.GetKind()})
	id, row := i.GetIncidentId(), []any{i.GetIncidentId(), i.GetRunId(), r.Attempt, r.OnsetStep, r.Findings,
		i.GetState(), nanosOf(i.GetOpened()), nanosOf(i.GetResolved()), body,
		r.Occurrences, r.Latest, nanos(r.ResolvedEvent), r.Fingerprint, nanos(r.Expires), r.Reopened, nanos(r.Changed), i.GetNode()}
	if _, opened := tx.cache.opened[id]; opened {
		tx.later(incidentRows, id, row...)
	} else if _, err := tx.exec(incidentRows.statement(1, tx.traits.unnamed), row...); err != nil {
		return fmt.Errorf("put incident %s: %w", id, err)
	}
	r.Incident = &bare // it has the caller's maps, but no more of it
	tx.keepIncident(r)
	return nil
}

// OpenIncidents gives the incidents of a run that are not resolved, the oldest
// first. External alerts are not among them: nothing that Vigil finds is part of
// one.
func (tx *Tx) OpenIncidents(runID string) ([]IncidentRecord, error) {
	if tx.cache.quiet[runID] || tx.cache.fresh[runID] {
		return nil, nil
	}
	open, err := tx.incidentRecords("open incidents of run "+runID,
		"run_id = $1 AND run_id <> '' AND resolved = 0 AND fingerprint = '' ORDER BY opened, incident_id", runID)
	tx.cache.quiet[runID] = err == nil && len(open) == 0
	return open, err
}

// ResolvedSince gives the incidents of a run that an event not before a time
// resolved, the latest first.
func (tx *Tx) ResolvedSince(runID string, since time.Time) ([]IncidentRecord, error) {
	if tx.cache.fresh[runID] {
		return nil, nil
	}
	return tx.incidentRecords("resolved incidents of run "+runID,
		"run_id = $1 AND run_id <> '' AND resolved <> 0 AND resolved_event >= $2 AND fingerprint = '' ORDER BY resolved_event DESC, incident_id",
		runID, nanos(since))
}

// HasFinding tells whether an incident has a finding of a kind that began at a
// step.
func (tx *Tx) HasFinding(incidentID, kind string, onsetStep int64) (bool, error) {
	findings, err := list[controlv1.Finding](tx, "findings of incident "+incidentID,
		"SELECT body FROM findings WHERE incident_id = $1 AND onset_step = $2", incidentID, onsetStep)
	return slices.ContainsFunc(findings, func(f *controlv1.Finding) bool { return f.GetKind() == kind }), err
}

// IncidentRecord gives the record of one incident.
func (tx *Tx) IncidentRecord(id string) (IncidentRecord, error) {
	if kept, ok := tx.keptIncident(id); ok {
		return kept, nil
	}
	found, err := tx.incidentRecords("incident "+id, "incident_id = $1", id)
	if err == nil && len(found) == 0 {
		err = notFound("incident " + id)
	}
	if err != nil {
		return IncidentRecord{}, err
	}
	return found[0], nil
}

func (tx *Tx) incidentRecords(what, where string, args ...any) ([]IncidentRecord, error) {
	var all []IncidentRecord
	query := `SELECT attempt, onset_step, finding_count, occurrences, latest, resolved_event, fingerprint, expires,
		reopened, changed, body FROM incidents WHERE ` + where
	err := tx.each(what, query, args, func(rows *sql.Rows) error {
		r := IncidentRecord{Incident: &controlv1.Incident{}}
		var body []byte
		var resolved, expires, changed int64
		err := rows.Scan(&r.Attempt, &r.OnsetStep, &r.Findings, &r.Occurrences, &r.Latest, &resolved, &r.Fingerprint,
			&expires, &r.Reopened, &changed, &body)
		if err != nil {
			return err
		}
		r.ResolvedEvent, r.Expires, r.Changed = timeOf(resolved), timeOf(expires), timeOf(changed)
		all = append(all, r)
		return tx.unmarshal(what, body, r.Incident)
	})
	return all, err
}

// Incident gives an incident with its findings, the cause first and at most
// [FindingsShown], its timeline, the oldest first, and its notifications.
func (tx *Tx) Incident(id string) (*controlv1.Incident, error) {
	what := "incident " + id
	i, err := get[controlv1.Incident](tx, what, "SELECT body FROM incidents WHERE incident_id = $1", id)
	if err != nil {
		return nil, err
	}
	if i.Findings, err = tx.findings(id, FindingsShown); err != nil {
		return nil, err
	}
	i.Timeline, err = list[controlv1.TimelineEntry](tx, "timeline of "+what,
		"SELECT body FROM timeline WHERE incident_id = $1 ORDER BY position", id)
	if err != nil {
		return nil, err
	}
	i.Notifications, err = tx.notifications(id)
	return i, err
}

// Incidents gives at most limit incidents of a run, or of every run when it is
// empty, the newest first, without findings, timeline and notifications; limit
// 0 means all.
func (tx *Tx) Incidents(runID string, limit int) ([]*controlv1.Incident, error) {
	return list[controlv1.Incident](tx, "incidents", "SELECT body FROM incidents WHERE "+ofRun(runID)+
		" ORDER BY opened DESC, incident_id DESC LIMIT $2", runID, rowsUpTo(limit))
}

// CountIncidents gives how many incidents are in a state.
func (tx *Tx) CountIncidents(state controlv1.IncidentState) (count int64, err error) {
	query := "SELECT COUNT(*) FROM incidents WHERE state = $1"
	if state != controlv1.IncidentState_INCIDENT_STATE_RESOLVED {
		query += " AND resolved = 0 AND expires >= 0" // the index of those that are open
	}
	err = tx.one("incidents", query, []any{state}, &count)
	return count, err
}

// AddTimeline adds an entry at the end of an incident's timeline.
func (tx *Tx) AddTimeline(incidentID string, entry *controlv1.TimelineEntry) error {
	body, err := tx.marshal(entry)
	if err != nil {
		return err
	}
	tx.touch(TopicIncidents)
	if position, ok := tx.cache.opened[incidentID]; ok {
		tx.cache.opened[incidentID]++
		tx.later(timelineRows, incidentID+"/"+strconv.FormatInt(position+1, 10), incidentID, position+1, body)
		return nil
	}
	_, err = tx.exec(`INSERT INTO timeline (incident_id, position, body)
		SELECT $1, COALESCE(MAX(position), 0) + 1, $2 FROM timeline WHERE incident_id = $1`, incidentID, body)
	if err != nil {
		return fmt.Errorf("add to timeline of incident %s: %w", incidentID, err)
	}
	return nil
}

// Awaited is a checkpoint that an incident waits for.
type Awaited struct {
	CheckpointID string
	IncidentID   string
	Noted        uint64 // bit s is set when the timeline tells that state s was reached
}

// PutAwaited notes that an incident waits for a checkpoint, and what its
// timeline tells of it.
func (tx *Tx) PutAwaited(a Awaited) error {
	_, err := tx.exec(`INSERT INTO incident_checkpoints (checkpoint_id, incident_id, noted) VALUES ($1, $2, $3)
		ON CONFLICT (checkpoint_id) DO UPDATE SET noted = excluded.noted`, a.CheckpointID, a.IncidentID, int64(a.Noted))
	if err != nil {
		return fmt.Errorf("note checkpoint %s of incident %s: %w", a.CheckpointID, a.IncidentID, err)
	}
	return nil
}

// Awaited gives the incident that waits for a checkpoint.
func (tx *Tx) Awaited(checkpointID string) (Awaited, error) {
	a := Awaited{CheckpointID: checkpointID}
	err := tx.one("incident that waits for checkpoint "+checkpointID,
		"SELECT incident_id, noted FROM incident_checkpoints WHERE checkpoint_id = $1",
		[]any{checkpointID}, &a.IncidentID, &a.Noted)
	return a, err
}
