// Package audit keeps the audit log: who did what, so that it can be proved
// that nobody changed it since.
//
// A record is written in the transaction of the change that it is about
// ([Log.Ride]), or by itself ([Log.Write]); where it cannot be written there is
// no change. The store has the records and the hashes of their Merkle tree, the
// log signs the tree's head behind each record, and [Log.Run] brings every
// record to the copies, where it shows when the store's end is cut off or its
// history is another. There is no way to change a record. One whose time has
// come is let go of: its content is deleted, its hash stays, and the log says so
// of itself.
//
// Package trail has what a record is and how a copy is checked.
package audit

import (
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/vigil-ml/vigil/controlplane/audit/trail"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/metric"
)

const pseudonymBytes = 10

// Deps is what code injects.
type Deps struct {
	Store   *store.Store
	Log     *slog.Logger
	Metrics prometheus.Registerer
	Clock   func() time.Time
	// People encrypts what records say of their actors; nil leaves it out.
	People People
}

// People keeps the keys of those whom records name. It is safe for concurrent
// use.
type People interface {
	// Seal encrypts what the record of a place says of its actor.
	Seal(tx *store.Tx, actor trail.Actor, seq uint64, personal map[string]string) (*trail.Sealed, error)
	// Unseal gives it back; erased when the actor's key was destroyed.
	Unseal(tx *store.Tx, r *trail.Record) (personal map[string]string, erased bool, err error)
}

// Log is the audit log. It is safe for concurrent use.
type Log struct {
	config Config
	deps   Deps
	signer note.Signer
	key    note.Verifier
	public string
	// pseudonyms is the key that names people.
	pseudonyms []byte
	records    *prometheus.CounterVec
	refused    prometheus.Counter
	astray     *prometheus.GaugeVec
}

// Open opens the log of a store, and makes its key when there is none. A store
// whose last record is not signed by the key, or does not fit its tree, gives
// [fault.Corrupt].
func Open(ctx context.Context, config Config, deps Deps) (*Log, error) {
	l := &Log{
		config: config, deps: deps,
		records: metric.NewCounter(deps.Metrics, metric.ControlAuditRecords),
		refused: metric.NewCounter(deps.Metrics, metric.ControlAuditRefused).WithLabelValues(),
		astray:  metric.NewGauge(deps.Metrics, metric.ControlAuditAstray),
	}
	secret, err := secretKey(config.KeyFile)
	if err != nil {
		return nil, err
	}
	if l.signer, err = note.NewSigner(secret); err != nil {
		return nil, fault.New(fault.Corrupt, "read key of audit log %s: %w", config.KeyFile, err)
	}
	if l.pseudonyms, err = hkdf.Key(sha256.New, []byte(secret), nil, "vigil names of people", sha256.Size); err != nil {
		return nil, fmt.Errorf("make key of pseudonyms: %w", err)
	}
	if l.public, err = trail.PublicOf(secret); err != nil {
		return nil, err
	}
	if l.key, err = trail.OpenKey(l.public); err != nil {
		return nil, err
	}
	if _, _, err := l.Head(ctx); err != nil {
		return nil, fault.WithHint(fmt.Errorf("open audit log: %w", err),
			"the store was changed by other hands, or key_file is not the log's: compare with a copy, agentctl audit verify COPY")
	}
	return l, nil
}

// secretKey reads the log's secret key, or makes it.
func secretKey(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err == nil {
		return strings.TrimSpace(string(data)), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read key of audit log: %w", err)
	}
	id := make([]byte, 6)
	_, _ = rand.Read(id) // never fails
	secret, _, err := trail.GenerateKey("vigil/audit/" + hex.EncodeToString(id))
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fmt.Errorf("make directory of audit log's key: %w", err)
	}
	return secret, durable.WriteFile(durable.OS{}, path, []byte(secret+"\n"), 0o600)
}

// Pseudonym gives a name for somebody of which nobody without the log's key can
// tell who it is. The same text has the same name, at every replica.
func (l *Log) Pseudonym(text string) string {
	mac := hmac.New(sha256.New, l.pseudonyms)
	mac.Write([]byte(text))
	return strings.ToLower(base32.StdEncoding.EncodeToString(mac.Sum(nil)[:pseudonymBytes]))
}

// Derive gives a key of 32 bytes for another purpose, which nobody without the
// log's key can make.
func (l *Log) Derive(purpose string) ([]byte, error) {
	return hkdf.Key(sha256.New, l.pseudonyms, nil, purpose, sha256.Size)
}

// SetPeople says who encrypts what records say of people; it is called once, before
// anything is written.
func (l *Log) SetPeople(people People) { l.deps.People = people }

// PublicKey is the key that checks the log, and names it.
func (l *Log) PublicKey() string { return l.public }

// Append writes a record into a transaction. It gives the record its place, time
// and flags.
func (l *Log) Append(tx *store.Tx, r trail.Record) error {
	err := l.append(tx, &r)
	if err != nil {
		l.refused.Inc()
		return fault.WithHint(fmt.Errorf("write audit record: %w", err), "nothing is done that cannot be recorded; see the control plane's log")
	}
	l.records.WithLabelValues(string(r.Class)).Inc()
	return nil
}

func (l *Log) append(tx *store.Tx, r *trail.Record) error {
	seq, err := tx.NextAudit()
	if err != nil {
		return err
	}
	now := l.deps.Clock()
	r.Seq, r.Time, r.Flags = seq, trail.Stamp(now), slices.Sorted(slices.Values(l.config.Flags[string(r.Class)]))
	if l.deps.People != nil && len(r.Personal) > 0 {
		if r.Sealed, err = l.deps.People.Seal(tx, r.Actor, seq, r.Personal); err != nil {
			return err
		}
	}
	text, err := r.Canonical()
	if err != nil {
		return err
	}
	if len(text) > trail.MaxLineBytes/2 {
		return fault.New(fault.Invalid, "the record has %d bytes; at most %d", len(text), trail.MaxLineBytes/2)
	}
	tree, err := frontier(tx, seq)
	if err != nil {
		return err
	}
	hashes := tree.Append(tlog.RecordHash(text))
	signature, err := trail.Sign(l.signer, trail.Checkpoint{Origin: l.signer.Name(), Size: seq + 1, Root: tree.Root()})
	if err != nil {
		return err
	}
	stored := make([][store.HashSize]byte, len(hashes))
	for i, hash := range hashes {
		stored[i] = hash
	}
	return tx.AppendAudit(store.AuditRecord{
		Seq: seq, Time: now, Class: string(r.Class), Actor: r.Actor.Kind + "/" + r.Actor.ID, Action: r.Action, Outcome: r.Outcome,
		Objects: slices.Collect(maps.Values(r.Object)), Expires: l.config.expires(r.Class, now), Signature: signature, Body: text,
	}, tlog.StoredHashIndex(0, int64(seq)), stored)
}

// frontier reads the right edge of the tree of so many records.
func frontier(tx *store.Tx, size uint64) (trail.Frontier, error) {
	hashes, err := tx.AuditHashes(trail.Peaks(size))
	if err != nil {
		return trail.Frontier{}, err
	}
	peaks := make([]tlog.Hash, len(hashes))
	for i, hash := range hashes {
		peaks[i] = hash
	}
	return trail.NewFrontier(size, peaks)
}

// Write writes a record in a transaction of its own.
func (l *Log) Write(ctx context.Context, r trail.Record) error {
	return l.deps.Store.Update(ctx, func(tx *store.Tx) error { return l.Append(tx, r) })
}

// Ride has a record written in the transaction of the first change that is made
// under the context. Written tells whether there was one.
func (l *Log) Ride(ctx context.Context, r trail.Record) (_ context.Context, written func() bool) {
	return store.WithRider(ctx, func(tx *store.Tx) error { return l.Append(tx, r) })
}

// Records tells whether calls of a class are recorded when they succeed.
func (l *Log) Records(class trail.Class) bool { return class != trail.Read || l.config.Reads }

// Head gives the head of the log and its signature; an empty log has a head of
// size 0 and no signature. When the last record does not fit, the error is
// [fault.Corrupt].
func (l *Log) Head(ctx context.Context) (head trail.Checkpoint, signature string, err error) {
	err = l.deps.Store.View(ctx, func(tx *store.Tx) error {
		size, err := tx.AuditSize()
		if err != nil {
			return err
		}
		head, signature, err = l.headAt(tx, size)
		return err
	})
	return head, signature, err
}

func (l *Log) headAt(tx *store.Tx, size uint64) (trail.Checkpoint, string, error) {
	tree, err := frontier(tx, size)
	if err != nil {
		return trail.Checkpoint{}, "", err
	}
	head := trail.Checkpoint{Origin: l.signer.Name(), Size: size, Root: tree.Root()}
	last, err := tx.AuditRecords(store.AuditQuery{From: max(size, 1) - 1, Limit: 2})
	if err != nil || (size == 0 && len(last) == 0) {
		return head, "", err
	}
	if size == 0 || len(last) == 0 {
		return head, "", fault.New(fault.Corrupt, "the log says that it has %d records, and it is not so", size)
	}
	if _, err := trail.OpenCheckpoint(l.key, head.Note(last[0].Signature)); err != nil {
		return head, "", fmt.Errorf("the last record, %d, does not fit its tree: %w", size-1, err)
	}
	return head, last[0].Signature, nil
}
