package store

import (
	"fmt"
	"time"

	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// PutSilence writes a silence.
func (tx *Tx) PutSilence(s *controlv1.Silence) error {
	body, err := tx.marshal(s)
	if err != nil {
		return err
	}
	tx.touch(TopicSilences)
	clear(tx.cache.silences)
	_, err = tx.exec(`INSERT INTO silences (silence_id, starts, ends, body) VALUES ($1, $2, $3, $4)
		ON CONFLICT (silence_id) DO UPDATE SET starts = excluded.starts, ends = excluded.ends, body = excluded.body`,
		s.GetSilenceId(), nanosOf(s.GetStarts()), nanosOf(s.GetEnds()), body)
	if err != nil {
		return fmt.Errorf("put silence %s: %w", s.GetSilenceId(), err)
	}
	return nil
}

// Silence gives a silence.
func (tx *Tx) Silence(id string) (*controlv1.Silence, error) {
	return get[controlv1.Silence](tx, "silence "+id, "SELECT body FROM silences WHERE silence_id = $1", id)
}

// Silences gives the silences that end after a time, those that end last first.
func (tx *Tx) Silences(after time.Time) ([]*controlv1.Silence, error) {
	return list[controlv1.Silence](tx, "silences",
		"SELECT body FROM silences WHERE ends > $1 ORDER BY ends DESC, silence_id", nanos(after))
}

// ActiveSilences gives the silences that hold at a time.
// They are read-only: a transaction that asks for a time again gets the same.
func (tx *Tx) ActiveSilences(now time.Time) ([]*controlv1.Silence, error) {
	if kept, ok := tx.cache.silences[nanos(now)]; ok {
		return kept, nil
	}
	active, err := list[controlv1.Silence](tx, "active silences",
		"SELECT body FROM silences WHERE ends > $1 AND starts <= $1 ORDER BY silence_id", nanos(now))
	if err == nil {
		tx.cache.silences[nanos(now)] = active
	}
	return active, err
}

// ForgetSilences deletes the silences that ended before a time.
func (tx *Tx) ForgetSilences(before time.Time) error {
	_, err := tx.exec("DELETE FROM silences WHERE ends < $1", nanos(before))
	if err != nil {
		return fmt.Errorf("forget silences: %w", err)
	}
	return nil
}
