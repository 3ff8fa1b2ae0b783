package store

import (
	"database/sql"
	"fmt"
	"time"
)

// Timer is something that happens at a time unless it is deleted before.
type Timer struct {
	Kind   string
	Name   string
	Target string
	Step   int64
	Due    time.Time
}

// PutTimer writes a timer over the one of the same kind, name and target.
func (tx *Tx) PutTimer(t Timer) error {
	tx.touch(TopicGroups)
	_, err := tx.exec(`INSERT INTO timers (kind, name, target, step, due) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (kind, name, target) DO UPDATE SET step = excluded.step, due = excluded.due`,
		t.Kind, t.Name, t.Target, t.Step, nanos(t.Due))
	if err != nil {
		return fmt.Errorf("put timer %s of %s: %w", t.Kind, t.Name, err)
	}
	return nil
}

// DueTimers gives at most limit timers that are due, the oldest first.
func (tx *Tx) DueTimers(now time.Time, limit int) ([]Timer, error) {
	return tx.timers("due <= $1 ORDER BY due, kind, name, target LIMIT $2", nanos(now), limit)
}

// TimersOf gives the timers of a kind and a target; an empty target means all.
func (tx *Tx) TimersOf(kind, target string) ([]Timer, error) {
	return tx.timers("kind = $1 AND (target = $2 OR $2 = '') ORDER BY name, target", kind, target)
}

func (tx *Tx) timers(where string, args ...any) ([]Timer, error) {
	var all []Timer
	err := tx.each("timers", "SELECT kind, name, target, step, due FROM timers WHERE "+where, args, func(rows *sql.Rows) error {
		var t Timer
		var due int64
		err := rows.Scan(&t.Kind, &t.Name, &t.Target, &t.Step, &due)
		t.Due = timeOf(due)
		all = append(all, t)
		return err
	})
	return all, err
}

// DeleteTimer ends a timer.
func (tx *Tx) DeleteTimer(t Timer) error {
	_, err := tx.exec("DELETE FROM timers WHERE kind = $1 AND name = $2 AND target = $3", t.Kind, t.Name, t.Target)
	if err != nil {
		return fmt.Errorf("delete timer %s of %s: %w", t.Kind, t.Name, err)
	}
	return nil
}
