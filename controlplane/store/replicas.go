package store

import (
	"database/sql"
	"fmt"
	"time"

	"github.com/vigil-ml/vigil/internal/fault"
)

// Replica is one of the control planes that share the records.
type Replica struct {
	ID      string
	Beat    int64 // grows while it lives
	Started time.Time
	Address string // where people reach it
}

// Lease is what one control plane does at a time.
type Lease struct {
	Owner string // a replica's id; empty while nobody does it
	Epoch int64  // how many owners it has had
}

// Beat notes that a replica lives.
func (tx *Tx) Beat(r Replica) error {
	rows, err := tx.exec("UPDATE replicas SET beat = beat + 1 WHERE replica_id = $1", r.ID)
	if err == nil && rows == 0 {
		tx.touch(TopicLeases)
		_, err = tx.exec("INSERT INTO replicas (replica_id, beat, started, address) VALUES ($1, 1, $2, $3)", r.ID, nanos(r.Started), r.Address)
	}
	if err != nil {
		return fmt.Errorf("note that replica %s lives: %w", r.ID, err)
	}
	return nil
}

// Replicas gives the replicas that nobody found dead, by id.
func (tx *Tx) Replicas() ([]Replica, error) {
	var all []Replica
	err := tx.each("replicas", "SELECT replica_id, beat, started, address FROM replicas ORDER BY replica_id", nil, func(rows *sql.Rows) error {
		var r Replica
		var started int64
		err := rows.Scan(&r.ID, &r.Beat, &started, &r.Address)
		r.Started = timeOf(started)
		all = append(all, r)
		return err
	})
	return all, err
}

// ForgetReplica takes a replica from the list, and from it what it owned.
func (tx *Tx) ForgetReplica(id string) error {
	tx.touch(TopicLeases)
	for _, query := range []string{"DELETE FROM replicas WHERE replica_id = $1", "UPDATE leases SET owner = '', epoch = epoch + 1 WHERE owner = $1"} {
		if _, err := tx.exec(query, id); err != nil {
			return fmt.Errorf("forget replica %s: %w", id, err)
		}
	}
	return nil
}

// Leases gives all that ever had an owner, by name.
func (tx *Tx) Leases() (map[string]Lease, error) {
	all := map[string]Lease{}
	err := tx.each("leases", "SELECT name, owner, epoch FROM leases", nil, func(rows *sql.Rows) error {
		var name string
		var l Lease
		err := rows.Scan(&name, &l.Owner, &l.Epoch)
		all[name] = l
		return err
	})
	return all, err
}

// SetLease gives something an owner, or with an empty one none.
func (tx *Tx) SetLease(name, owner string) error {
	tx.touch(TopicLeases)
	_, err := tx.exec(`INSERT INTO leases (name, owner, epoch) VALUES ($1, $2, 1)
		ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, epoch = leases.epoch + 1`, name, owner)
	if err != nil {
		return fmt.Errorf("set owner of %s: %w", name, err)
	}
	return nil
}

// AdvanceCursor notes how far a reader of the bus has come that was at from. It
// fails with [fault.Unavailable] when the reader is elsewhere by now: another
// process reads in its place, and what this one has read is not to take effect.
func (tx *Tx) AdvanceCursor(name string, from, to uint64) error {
	at, err := tx.Cursor(name)
	if err != nil {
		return err
	}
	if at != from {
		return fault.New(fault.Unavailable, "advance cursor %s from %d: it is at %d, somebody else reads in our place", name, from, at)
	}
	return tx.SetCursor(name, to)
}

// PutHeard notes when something that must keep arriving was last heard of.
func (tx *Tx) PutHeard(name string, at time.Time) error {
	_, err := tx.exec(`INSERT INTO heard (name, at) VALUES ($1, $2)
		ON CONFLICT (name) DO UPDATE SET at = CASE WHEN excluded.at > heard.at THEN excluded.at ELSE heard.at END`, name, nanos(at))
	if err != nil {
		return fmt.Errorf("note that %s was heard of: %w", name, err)
	}
	return nil
}

// Heard gives when something was last heard of; zero when it never was.
func (tx *Tx) Heard(name string) (time.Time, error) {
	var at int64
	err := tx.one("what was heard of "+name, "SELECT at FROM heard WHERE name = $1", []any{name}, &at)
	if fault.Is(err, fault.NotFound) {
		return time.Time{}, nil
	}
	return timeOf(at), err
}
