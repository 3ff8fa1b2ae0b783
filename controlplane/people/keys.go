package people

import (
	"context"
	"encoding/binary"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/vigil-ml/vigil/controlplane/audit/trail"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/envelope"
	"github.com/vigil-ml/vigil/internal/fault"
)

// placeOfKeys names where the keys lie, in messages and in the audit log.
const placeOfKeys = "the records"

// changeTries is how often a change of the keys is tried again when another
// replica changed them meanwhile.
const changeTries = 5

// Keys encrypts the records, with keys that lie beside them, encrypted with the
// outer key. It is a [store.Sealer], and safe for concurrent use.
type Keys struct {
	file    envelope.File
	records *store.Store
	write   func(ctx context.Context, r trail.Record) error

	mu        sync.RWMutex
	set       *envelope.Set
	version   int64 // of what is stored
	primitive tink.AEAD
	prefix    []byte // that begins what the primary key encrypts
}

// openKeys reads the records' keys, or makes the first. It fails with
// [fault.Denied] when they are encrypted with an outer key that is not at hand.
func openKeys(ctx context.Context, outer envelope.Keys, records *store.Store, write func(context.Context, trail.Record) error) (*Keys, error) {
	k := &Keys{records: records, write: write}
	k.file = envelope.File{
		FS: durable.OS{}, Path: placeOfKeys, Keys: outer, Template: aead.AES256GCMKeyTemplate(), Clock: time.Now,
	}
	for range changeTries {
		err := k.load(ctx)
		if err == nil {
			err = k.used(ctx, "open")
		}
		if fault.Is(err, fault.NotFound) {
			err = k.change(ctx, "make", func(*envelope.Set) (*keyset.Handle, error) { return k.file.Grow(nil) })
		}
		if err == nil {
			return k, nil
		}
		if !fault.Is(err, fault.Precondition) {
			return nil, fault.WithHint(fmt.Errorf("open the records' keys: %w", err), "protection says where their outer key is, and protection.previous the ones before")
		}
	}
	return nil, fault.New(fault.Unavailable, "open the records' keys: others change them all the time")
}

// load reads the keys as they are stored now.
func (k *Keys) load(ctx context.Context) error {
	var body []byte
	var version int64
	err := k.records.View(ctx, func(tx *store.Tx) (err error) {
		body, version, err = tx.RecordKeys()
		return err
	})
	if err != nil {
		return err
	}
	k.mu.RLock()
	same := k.set != nil && k.version == version
	k.mu.RUnlock()
	if same {
		return nil
	}
	set, err := k.file.Decode(ctx, body)
	if err != nil {
		return err
	}
	return k.use(set, version)
}

func (k *Keys) use(set *envelope.Set, version int64) error {
	primitive, err := aead.New(set.Handle)
	if err != nil {
		return fmt.Errorf("use the records' keys: %w", err)
	}
	primary, err := set.Handle.Primary()
	if err != nil {
		return fmt.Errorf("use the records' keys: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.set, k.version, k.primitive = set, version, primitive
	k.prefix = binary.BigEndian.AppendUint32([]byte{1}, primary.KeyID()) // as Tink begins what it encrypts
	return nil
}

// change stores the keys that next makes of those that there are; nil: none. It
// fails with [fault.Precondition] when somebody else changed them meanwhile.
func (k *Keys) change(ctx context.Context, what string, next func(*envelope.Set) (*keyset.Handle, error)) error {
	k.mu.RLock()
	old, version := k.set, k.version
	k.mu.RUnlock()
	handle, err := next(old)
	if err != nil || handle == nil {
		return err
	}
	body, set, err := k.file.Encode(ctx, handle)
	if err != nil {
		return err
	}
	err = k.records.Update(ctx, func(tx *store.Tx) error { return tx.PutRecordKeys(body, version) })
	if err != nil {
		return err
	}
	if err := k.use(set, version+1); err != nil {
		return err
	}
	return k.used(ctx, what)
}

// used has a use of the outer key recorded.
func (k *Keys) used(ctx context.Context, what string) error {
	at := k.State()
	return k.write(ctx, trail.Record{
		Class: trail.Key, Actor: trail.Actor{Kind: "system", ID: "records"}, Action: "record keys/" + what, Outcome: "ok",
		Object: map[string]string{"kek": at.KEK, "key": at.Primary}, Detail: map[string]string{"keys": strconv.Itoa(at.Keys)},
	})
}

// Rotate encrypts the keys with the outer key that is configured, if they are
// not, and adds one for what is written from then on when it is asked to. What
// others did meanwhile is kept.
func (k *Keys) Rotate(ctx context.Context, fresh bool) error {
	var err error
	for range changeTries {
		if err = k.load(ctx); err == nil && fresh {
			err = k.change(ctx, "add", k.file.Grow)
		} else if err == nil {
			err = k.change(ctx, "rewrap", func(old *envelope.Set) (*keyset.Handle, error) {
				if old.KEK == k.file.Keys.Current.ID {
					return nil, nil
				}
				return old.Handle, nil
			})
		}
		if !fault.Is(err, fault.Precondition) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("rotate the records' keys: %w", err)
	}
	return nil
}

func (k *Keys) now() (tink.AEAD, []byte) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.primitive, k.prefix
}

// Encrypt encrypts with the primary key.
func (k *Keys) Encrypt(plaintext, associated []byte) ([]byte, error) {
	primitive, _ := k.now()
	return primitive.Encrypt(plaintext, associated)
}

// Decrypt decrypts with the key that it was encrypted with.
func (k *Keys) Decrypt(ciphertext, associated []byte) ([]byte, error) {
	primitive, _ := k.now()
	plain, err := primitive.Decrypt(ciphertext, associated)
	if err == nil || !k.records.Shared() {
		return plain, err
	}
	// Another replica may have a key that this one has not heard of.
	ctx, cancel := context.WithTimeout(context.Background(), loadTime)
	defer cancel()
	if loadErr := k.load(ctx); loadErr != nil {
		return nil, loadErr
	}
	primitive, _ = k.now()
	return primitive.Decrypt(ciphertext, associated)
}

// loadTime bounds how long a record waits for keys that another replica made.
const loadTime = 10 * time.Second

// State is which keys there are.
type State struct {
	KEK, ConfiguredKEK, Primary string // ids
	Keys                        int
}

// State tells which keys there are.
func (k *Keys) State() State {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return State{KEK: k.set.KEK, ConfiguredKEK: k.file.Keys.Current.ID, Primary: k.set.Primary(), Keys: k.set.Handle.Len()}
}
