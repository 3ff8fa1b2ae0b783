// Package people keeps who the audit log's actors are, apart from the log: each
// has a key of their own, and what records say of them is encrypted with it.
// When the key is destroyed that cannot be read any more, though the log's hashes
// still hold: they are of what is encrypted.
//
// The keys of people lie in the store, encrypted with the records' keys
// ([Keys]), which lie there encrypted with an outer key that does not. The same
// keys encrypt every record that says something of people.
//
// docs/personal-data.md says what is kept, where, and what is left after an
// erasure.
package people

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/tink-crypto/tink-go/v2/aead/subtle"

	"github.com/vigil-ml/vigil/controlplane/audit"
	"github.com/vigil-ml/vigil/controlplane/audit/trail"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/envelope"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/metric"
)

// outerPurpose is what the outer key of an installation that configures none is
// derived from the audit log's key for.
const outerPurpose = "vigil outer key of the records"

// keptMost bounds how many keys and names are at hand at once.
const keptMost = 10000

// Profile is who somebody is, as the sign-in's provider says.
type Profile struct {
	Name  string `json:"name,omitempty"`
	Email string `json:"email,omitempty"`
	Login string `json:"login,omitempty"`
}

// Deps is what code injects.
type Deps struct {
	Store *store.Store
	// Audit is told of each change of keys, and gets its people from the book.
	Audit   *audit.Log
	Log     *slog.Logger
	Metrics prometheus.Registerer
	Clock   func() time.Time
}

// Book keeps people. It is safe for concurrent use.
type Book struct {
	deps Deps
	keys *Keys
	form *regexp.Regexp // how records name people

	erased, reencrypted prometheus.Counter

	mu    sync.Mutex
	aeads map[string]*subtle.AESGCM // by the key's id
	names map[string]string         // by subject; "" where none is known
}

// Open opens the book, and has the store and the audit log encrypt with its keys:
// nothing else may use them before. It fails with [fault.Denied] when the outer key is not
// the one that the keys are encrypted with.
func Open(ctx context.Context, config envelope.Settings, deps Deps) (*Book, error) {
	derived, err := deps.Audit.Derive(outerPurpose)
	if err != nil {
		return nil, err
	}
	outer, err := outerKeys(config, derived)
	if err != nil {
		return nil, err
	}
	keys, err := openKeys(ctx, outer, deps.Store, deps.Audit.Write)
	if err != nil {
		return nil, err
	}
	if at := keys.State(); at.KEK != at.ConfiguredKEK {
		deps.Log.Info("the records' keys are still encrypted with an outer key that was used before; agentctl keys rotate encrypts them with the one that is configured",
			"kek", at.KEK, "configured", at.ConfiguredKEK)
	}
	b := &Book{deps: deps, keys: keys, form: pseudonyms(), aeads: map[string]*subtle.AESGCM{}, names: map[string]string{}}
	b.erased = metric.NewCounter(deps.Metrics, metric.ControlErased).WithLabelValues()
	b.reencrypted = metric.NewCounter(deps.Metrics, metric.ControlReencrypted).WithLabelValues()
	deps.Store.Protect(keys)
	deps.Audit.SetPeople(b)
	return b, nil
}

// Keys is the records' keys.
func (b *Book) Keys() *Keys { return b.keys }

// Know keeps who somebody is who came in. A subject that was erased and comes
// again has a new key.
func (b *Book) Know(ctx context.Context, subject string, p Profile) error {
	text, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("keep who %s is: %w", subject, err)
	}
	err = b.deps.Store.Update(ctx, func(tx *store.Tx) error {
		s, key, err := b.subject(tx, subject)
		if err != nil {
			return err
		}
		before, openErr := key.Decrypt(s.Profile, profileOf(s))
		if openErr == nil && string(before) == string(text) {
			return nil
		}
		if s.Profile, err = key.Encrypt(text, profileOf(s)); err != nil {
			return err
		}
		s.Email, s.Changed = b.emailDigest(p.Email), b.deps.Clock()
		return tx.PutSubject(s)
	})
	if err != nil {
		return fmt.Errorf("keep who %s is: %w", subject, err)
	}
	b.forget()
	return nil
}

func (b *Book) emailDigest(address string) string {
	if address == "" {
		return ""
	}
	return b.deps.Audit.Pseudonym("e-mail\x00" + strings.ToLower(address))
}

// What is encrypted with a subject's key opens only as what it was encrypted for.
func profileOf(s store.Subject) []byte { return []byte("vigil profile\x00" + s.KeyID) }

func recordOf(keyID string, seq uint64) []byte {
	return fmt.Appendf(nil, "vigil audit record\x00%s\x00%d", keyID, seq)
}

func keyOf(subject, keyID string) []byte {
	return []byte("vigil key of\x00" + subject + "\x00" + keyID)
}

// subject gives a subject with their key, making it where there is none.
func (b *Book) subject(tx *store.Tx, subject string) (store.Subject, *subtle.AESGCM, error) {
	s, err := tx.Subject(subject)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return s, nil, err
	}
	if err == nil && len(s.Key) > 0 {
		key, err := b.open(s)
		return s, key, err
	}
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // never fails
	now := b.deps.Clock()
	s = store.Subject{Subject: subject, KeyID: strings.ToLower(rand.Text()[:12]), Created: now, Changed: now}
	if s.Key, err = b.keys.Encrypt(raw, keyOf(subject, s.KeyID)); err != nil {
		return s, nil, fmt.Errorf("encrypt key of %s: %w", subject, err)
	}
	key, err := subtle.NewAESGCM(raw)
	if err == nil {
		err = tx.PutSubject(s)
	}
	return s, key, err
}

// open gives a subject's key.
func (b *Book) open(s store.Subject) (*subtle.AESGCM, error) {
	b.mu.Lock()
	key, ok := b.aeads[s.KeyID]
	b.mu.Unlock()
	if ok {
		return key, nil
	}
	raw, err := b.keys.Decrypt(s.Key, keyOf(s.Subject, s.KeyID))
	if err == nil {
		key, err = subtle.NewAESGCM(raw)
	}
	if err != nil {
		return nil, fault.New(fault.Corrupt, "open key of %s: %w", s.Subject, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.aeads) >= keptMost {
		clear(b.aeads)
	}
	b.aeads[s.KeyID] = key
	return key, nil
}

// forget has keys and names be read again.
func (b *Book) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.aeads)
	clear(b.names)
}

// Seal encrypts what an audit record at a place says of its actor.
func (b *Book) Seal(tx *store.Tx, actor trail.Actor, seq uint64, personal map[string]string) (*trail.Sealed, error) {
	s, key, err := b.subject(tx, actor.Kind+"/"+actor.ID)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(personal)
	if err != nil {
		return nil, err
	}
	data, err := key.Encrypt(text, recordOf(s.KeyID, seq))
	if err != nil {
		return nil, fmt.Errorf("encrypt what a record says of %s: %w", s.Subject, err)
	}
	return &trail.Sealed{Key: s.KeyID, Data: data}, nil
}

// Unseal gives what an audit record says of its actor; erased when its key was
// destroyed.
func (b *Book) Unseal(tx *store.Tx, r *trail.Record) (personal map[string]string, erased bool, err error) {
	if r.Sealed == nil {
		return nil, false, nil
	}
	s, err := tx.Subject(r.Actor.Kind + "/" + r.Actor.ID)
	if fault.Is(err, fault.NotFound) || (err == nil && (s.KeyID != r.Sealed.Key || len(s.Key) == 0)) {
		return nil, true, nil
	}
	if err != nil {
		return nil, false, err
	}
	key, err := b.open(s)
	if err != nil {
		return nil, false, err
	}
	text, err := key.Decrypt(r.Sealed.Data, recordOf(s.KeyID, r.Seq))
	if err == nil {
		err = json.Unmarshal(text, &personal)
	}
	if err != nil {
		return nil, false, fault.New(fault.Corrupt, "open what audit record %d says of a person: %w", r.Seq, err)
	}
	return personal, false, nil
}
