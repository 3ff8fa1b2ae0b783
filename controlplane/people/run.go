package people

import (
	"bytes"
	"context"
	"time"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
)

const (
	// stepRecords is how many records one transaction encrypts anew, and stepWait
	// what others have the store for between two.
	stepRecords = 200
	stepWait    = 20 * time.Millisecond
	// restAfterTrouble is how long a store that does not answer is left alone.
	restAfterTrouble = 5 * time.Second
)

// Watch hears what other replicas did to keys and people, until ctx ends.
func (b *Book) Watch(ctx context.Context) error {
	for {
		changed := b.deps.Store.Changed(store.TopicPeople)
		if err := b.keys.load(ctx); err != nil && ctx.Err() == nil {
			b.deps.Log.Warn("the records' keys cannot be read again", "error", err)
		}
		b.forget()
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
		if !life.Sleep(ctx, 50*time.Millisecond) { // what comes together
			return nil
		}
	}
}

// Sweep encrypts anew what is not with the keys' primary one, also what was
// written before there were keys, until ctx ends. One replica does it at a time.
func (b *Book) Sweep(ctx context.Context) error {
	var swept []byte // the key that everything is encrypted with
	for ctx.Err() == nil {
		changed := b.deps.Store.Changed(store.TopicPeople)
		_, prefix := b.keys.now()
		done, err := 0, error(nil)
		if !bytes.Equal(swept, prefix) {
			done, err = b.step(ctx, prefix)
		}
		switch {
		case ctx.Err() != nil:
		case err != nil:
			b.deps.Log.Warn("records are not encrypted anew now", "error", err)
			life.Sleep(ctx, restAfterTrouble)
		case done > 0:
			life.Sleep(ctx, stepWait)
		default:
			swept = prefix
			select {
			case <-ctx.Done():
			case <-changed:
			}
		}
	}
	return nil
}

// step encrypts some records and people's keys anew, and gives how many.
func (b *Book) step(ctx context.Context, prefix []byte) (done int, err error) {
	err = b.deps.Store.Update(ctx, func(tx *store.Tx) error {
		behind, err := tx.SubjectsBehind(prefix, stepRecords)
		if err != nil {
			return err
		}
		for _, s := range behind {
			raw, err := b.keys.Decrypt(s.Key, keyOf(s.Subject, s.KeyID))
			if err != nil {
				return fault.New(fault.Corrupt, "open key of %s: %w", s.Subject, err)
			}
			if s.Key, err = b.keys.Encrypt(raw, keyOf(s.Subject, s.KeyID)); err != nil {
				return err
			}
			if err := tx.PutSubject(s); err != nil {
				return err
			}
		}
		records, err := tx.Reseal(prefix, stepRecords)
		done = len(behind) + records
		return err
	})
	if err == nil {
		b.reencrypted.Add(float64(done))
	}
	return done, err
}

// Progress tells how many records and keys of people there are to be encrypted,
// and how many are with the primary key.
func (b *Book) Progress(ctx context.Context) (total, done int64, err error) {
	_, prefix := b.keys.now()
	err = b.deps.Store.View(ctx, func(tx *store.Tx) error {
		records, still, err := tx.Behind(prefix)
		if err != nil {
			return err
		}
		people, with, err := tx.CountSubjects(prefix)
		total, done = records+people, records-still+with
		return err
	})
	return total, done, err
}
