package store

import (
	"database/sql"
	"time"
)

// Backlog is what waits in the records.
type Backlog struct {
	// Waiting notifications by receiver, and when the oldest of each was made.
	Waiting map[string]int64
	Oldest  map[string]time.Time
	// Dead are notifications that were given up, by receiver.
	Dead map[string]int64
	// Commands that their agents have not answered.
	Commands int64
}

// Backlog gives what waits. Each part is found by an index of what waits only.
func (tx *Tx) Backlog() (Backlog, error) {
	b := Backlog{Waiting: map[string]int64{}, Oldest: map[string]time.Time{}, Dead: map[string]int64{}}
	err := tx.each("waiting notifications", "SELECT receiver, COUNT(*), MIN(created) FROM outbox WHERE state = 1 GROUP BY receiver", nil,
		func(rows *sql.Rows) error {
			var receiver string
			var n, created int64
			err := rows.Scan(&receiver, &n, &created)
			b.Waiting[receiver], b.Oldest[receiver] = n, timeOf(created)
			return err
		})
	if err != nil {
		return b, err
	}
	err = tx.each("dead letters", "SELECT receiver, COUNT(*) FROM outbox WHERE state = 3 GROUP BY receiver", nil, func(rows *sql.Rows) error {
		var receiver string
		var n int64
		err := rows.Scan(&receiver, &n)
		b.Dead[receiver] = n
		return err
	})
	if err != nil {
		return b, err
	}
	return b, tx.one("open commands", "SELECT COUNT(*) FROM commands WHERE state < 10", nil, &b.Commands)
}
