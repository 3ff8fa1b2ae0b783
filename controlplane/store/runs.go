package store

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// PutRun writes a run. The first sequence, the place of the run's first event
// on the bus, is kept from the first time that the run was put, or that it was
// put without an end after it had one. A run with an end time is over.
func (tx *Tx) PutRun(run *controlv1.Run, firstSequence uint64) error {
	tx.touch(TopicRuns)
	if cached := tx.cache.runs[run.GetRunId()]; cached != nil {
		if cached.run.GetEnded() != nil && run.GetEnded() == nil {
			cached.begun = firstSequence
		}
		cached.run, cached.dirty = proto.CloneOf(run), true
		return nil
	}
	body, err := marshal(run)
	if err != nil {
		return err
	}
	_, err = tx.exec(`INSERT INTO runs (run_id, ended, started, first_sequence, body) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (run_id) DO UPDATE SET ended = excluded.ended, started = excluded.started, body = excluded.body,
		first_sequence = CASE WHEN runs.ended <> 0 AND excluded.ended = 0 THEN excluded.first_sequence ELSE runs.first_sequence END`,
		run.GetRunId(), nanosOf(run.GetEnded()), nanosOf(run.GetStarted()), int64(firstSequence), body)
	if err != nil {
		return fmt.Errorf("put run %s: %w", run.GetRunId(), err)
	}
	if tx.cache.absent[run.GetRunId()] {
		tx.cache.fresh[run.GetRunId()] = true
		delete(tx.cache.absent, run.GetRunId())
	}
	tx.keepRun(run)
	return nil
}

// Relaunch notes that a run was launched again after its end, at a time.
func (tx *Tx) Relaunch(runID string, launched time.Time) error {
	_, err := tx.exec(`INSERT INTO relaunches (run_id, launched) VALUES ($1, $2)
		ON CONFLICT (run_id) DO UPDATE SET launched = excluded.launched`, runID, nanos(launched))
	if err != nil {
		return fmt.Errorf("note launch of run %s: %w", runID, err)
	}
	tx.cache.relaunched[runID] = launched
	return nil
}

// Relaunched gives when a run was last launched again after its end; zero when
// it never was.
func (tx *Tx) Relaunched(runID string) (time.Time, error) {
	if launched, ok := tx.cache.relaunched[runID]; ok {
		return launched, nil
	}
	if tx.cache.absent[runID] {
		return time.Time{}, nil
	}
	var launched int64
	err := tx.one("launch of run "+runID, "SELECT launched FROM relaunches WHERE run_id = $1", []any{runID}, &launched)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return time.Time{}, err
	}
	tx.cache.relaunched[runID] = timeOf(launched)
	return timeOf(launched), nil
}

// Run gives a run.
func (tx *Tx) Run(id string) (*controlv1.Run, error) {
	if cached := tx.cache.runs[id]; cached != nil {
		return proto.CloneOf(cached.run), nil
	}
	run, err := get[controlv1.Run](tx, "run "+id, "SELECT body FROM runs WHERE run_id = $1", id)
	if fault.Is(err, fault.NotFound) {
		tx.cache.absent[id] = true
	}
	if err != nil {
		return nil, err
	}
	tx.keepRun(run)
	return run, nil
}

// Runs gives at most limit runs, the newest first; 0 means all.
func (tx *Tx) Runs(limit int) ([]*controlv1.Run, error) {
	if err := tx.flushRuns(); err != nil {
		return nil, err
	}
	return list[controlv1.Run](tx, "runs",
		"SELECT body FROM runs ORDER BY started DESC, run_id DESC LIMIT $1", rowsUpTo(limit))
}

// OpenRuns gives the runs that have not ended, the newest first.
func (tx *Tx) OpenRuns() ([]*controlv1.Run, error) {
	if err := tx.flushRuns(); err != nil {
		return nil, err
	}
	return list[controlv1.Run](tx, "runs",
		"SELECT body FROM runs WHERE ended = 0 ORDER BY started DESC, run_id DESC")
}

// FirstOpenSequence gives the place on the bus of the first event of any run
// that has not ended, and whether there is such a run.
func (tx *Tx) FirstOpenSequence() (uint64, bool, error) {
	if err := tx.flushRuns(); err != nil {
		return 0, false, err
	}
	var sequence, open uint64
	err := tx.one("first open sequence",
		"SELECT COALESCE(MIN(first_sequence), 0), COUNT(*) FROM runs WHERE ended = 0", nil, &sequence, &open)
	return sequence, open > 0, err
}

// PutAttempt writes an attempt of a run.
func (tx *Tx) PutAttempt(runID string, attempt *controlv1.Attempt) error {
	body, err := marshal(attempt)
	if err != nil {
		return err
	}
	tx.touch(TopicRuns)
	tx.cache.attempted[runID] = true
	_, err = tx.exec(`INSERT INTO attempts (run_id, attempt, body) VALUES ($1, $2, $3)
		ON CONFLICT (run_id, attempt) DO UPDATE SET body = excluded.body`, runID, attempt.GetAttempt(), body)
	if err != nil {
		return fmt.Errorf("put attempt %d of run %s: %w", attempt.GetAttempt(), runID, err)
	}
	return nil
}

// Attempt gives one attempt of a run.
func (tx *Tx) Attempt(runID string, attempt uint32) (*controlv1.Attempt, error) {
	what := fmt.Sprintf("attempt %d of run %s", attempt, runID)
	if tx.cache.fresh[runID] && !tx.cache.attempted[runID] {
		return nil, notFound(what)
	}
	return get[controlv1.Attempt](tx, what,
		"SELECT body FROM attempts WHERE run_id = $1 AND attempt = $2", runID, attempt)
}

// Attempts gives a run's attempts, the oldest first.
func (tx *Tx) Attempts(runID string) ([]*controlv1.Attempt, error) {
	return list[controlv1.Attempt](tx, "attempts of run "+runID,
		"SELECT body FROM attempts WHERE run_id = $1 ORDER BY attempt", runID)
}
