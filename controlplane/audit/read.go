package audit

import (
	"context"
	"fmt"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/vigil-ml/vigil/controlplane/audit/trail"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
)

// read gives records as copies have them.
func (l *Log) read(tx *store.Tx, q store.AuditQuery) ([]trail.Entry, error) {
	rows, err := tx.AuditRecords(q)
	if err != nil {
		return nil, err
	}
	entries := make([]trail.Entry, len(rows))
	for i, r := range rows {
		e := trail.Entry{Seq: r.Seq, Record: r.Body, Signature: r.Signature}
		if r.Body != nil {
			e.Leaf = tlog.RecordHash(r.Body)
		} else {
			hashes, err := tx.AuditHashes([]int64{tlog.StoredHashIndex(0, int64(r.Seq))})
			if err != nil {
				return nil, err
			}
			e.Leaf = hashes[0]
		}
		entries[i] = e
	}
	return entries, nil
}

// Entries gives at most limit records from a place on, as copies have them.
func (l *Log) Entries(ctx context.Context, from uint64, limit int) (entries []trail.Entry, err error) {
	err = l.deps.Store.View(ctx, func(tx *store.Tx) error {
		entries, err = l.read(tx, store.AuditQuery{From: from, Limit: limit})
		return err
	})
	return entries, err
}

// Search gives records as they are stored; those let go of are left out.
func (l *Log) Search(ctx context.Context, q store.AuditQuery) ([]*trail.Record, error) {
	return l.search(ctx, q, nil)
}

// SearchPersonal also opens what records say of their actors.
func (l *Log) SearchPersonal(ctx context.Context, q store.AuditQuery) ([]*trail.Record, error) {
	return l.search(ctx, q, l.deps.People)
}

func (l *Log) search(ctx context.Context, q store.AuditQuery, people People) (found []*trail.Record, err error) {
	err = l.deps.Store.View(ctx, func(tx *store.Tx) error {
		rows, err := tx.AuditRecords(q)
		if err != nil {
			return err
		}
		for _, row := range rows {
			if row.Body == nil {
				continue
			}
			r, err := trail.Parse(row.Body)
			if err != nil {
				return fmt.Errorf("read audit record %d: %w", row.Seq, err)
			}
			if people != nil {
				if r.Personal, r.Erased, err = people.Unseal(tx, r); err != nil {
					return err
				}
			}
			found = append(found, r)
		}
		return nil
	})
	return found, err
}

// Activity counts what was done in a time, by actor, action and outcome.
func (l *Log) Activity(ctx context.Context, actor string, since, until time.Time) (counts []store.AuditCount, err error) {
	err = l.deps.Store.View(ctx, func(tx *store.Tx) (err error) {
		counts, err = tx.AuditActivity(actor, since, until)
		return err
	})
	return counts, err
}

// Proof shows that a record is in the log, to anyone who has the log's key.
type Proof struct {
	Entry      trail.Entry
	Checkpoint string // the signed head
	Hashes     []tlog.Hash
}

// Prove proves that a record is in the log as it is now. It fails with
// [fault.NotFound] for a record that there is not.
func (l *Log) Prove(ctx context.Context, seq uint64) (p Proof, err error) {
	err = l.deps.Store.View(ctx, func(tx *store.Tx) error {
		size, err := tx.AuditSize()
		if err != nil {
			return err
		}
		if seq >= size {
			return fault.New(fault.NotFound, "there is no audit record %d: the log has %d, from 0 on", seq, size)
		}
		head, signature, err := l.headAt(tx, size)
		if err != nil {
			return err
		}
		entries, err := l.read(tx, store.AuditQuery{From: seq, Limit: 1})
		if err != nil {
			return err
		}
		if len(entries) != 1 || entries[0].Seq != seq {
			return fault.New(fault.Corrupt, "audit record %d is missing", seq)
		}
		p.Entry, p.Checkpoint = entries[0], head.Note(signature)
		p.Hashes, err = tlog.ProveRecord(int64(size), int64(seq), hashesOf(tx))
		return err
	})
	return p, err
}

// ProveGrowth proves that the log as it is now only adds to what it was at a
// size. It gives the signed head that the proof leads to.
func (l *Log) ProveGrowth(ctx context.Context, older uint64) (checkpoint string, hashes []tlog.Hash, err error) {
	err = l.deps.Store.View(ctx, func(tx *store.Tx) error {
		size, err := tx.AuditSize()
		if err != nil {
			return err
		}
		if size == 0 || older > size {
			return fault.New(fault.Precondition, "the log has %d records; a proof from %d on there is not", size, older)
		}
		head, signature, err := l.headAt(tx, size)
		if err != nil {
			return err
		}
		checkpoint = head.Note(signature)
		if older > 0 && older < size {
			hashes, err = tlog.ProveTree(int64(size), int64(older), hashesOf(tx))
		}
		return err
	})
	return checkpoint, hashes, err
}

func hashesOf(tx *store.Tx) tlog.HashReader {
	return tlog.HashReaderFunc(func(positions []int64) ([]tlog.Hash, error) {
		stored, err := tx.AuditHashes(positions)
		hashes := make([]tlog.Hash, len(stored))
		for i, hash := range stored {
			hashes[i] = hash
		}
		return hashes, err
	})
}

// letGoMost is how many records one record says are gone.
const letGoMost = 1000

// LetGo deletes the content of the records whose time has come, and says so in
// the log, in the same transaction.
func (l *Log) LetGo(ctx context.Context) error {
	for {
		var places []uint64
		err := l.deps.Store.View(ctx, func(tx *store.Tx) (err error) {
			now := l.deps.Clock()
			places, err = tx.ExpiredAudit(now, now.Add(-l.config.shortest()), letGoMost)
			return err
		})
		if err != nil || len(places) == 0 {
			return err
		}
		err = l.deps.Store.Update(ctx, func(tx *store.Tx) error {
			if err := tx.LetGoOfAudit(places); err != nil {
				return err
			}
			return l.Append(tx, trail.Record{
				Class: trail.Log, Actor: trail.Actor{Kind: "system", ID: "retention"}, Action: trail.ActionLetGo, Outcome: "ok",
				Detail: map[string]string{"ranges": rangesOf(places), "records": fmt.Sprint(len(places))},
			})
		})
		if err != nil {
			return err
		}
	}
}

// rangesOf writes ascending places as "0-99,120".
func rangesOf(places []uint64) string {
	var parts []string
	for i := 0; i < len(places); {
		j := i
		for j+1 < len(places) && places[j+1] == places[j]+1 {
			j++
		}
		if i == j {
			parts = append(parts, fmt.Sprint(places[i]))
		} else {
			parts = append(parts, fmt.Sprintf("%d-%d", places[i], places[j]))
		}
		i = j + 1
	}
	return strings.Join(parts, ",")
}
