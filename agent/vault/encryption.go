package vault

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/vigil-ml/vigil/agent/vault/seal"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/envelope"
	"github.com/vigil-ml/vigil/internal/fault"
)

const (
	// keyringName is the file in the vault's directory with the keys, encrypted.
	keyringName = ".keyring.json"
	// keyTime is how long a start waits for the second store's keyring, and for a
	// key management service.
	keyTime = 90 * time.Second
	// shareTries is how often a keyring is put into the second store until that
	// lacks nothing.
	shareTries = 8
)

// openKeys opens the vault's keys, getting them from the second store where this
// vault has none: the node is new, and the outer key is the same.
func (v *Vault) openKeys() error {
	if !v.config.Encryption.On() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), keyTime)
	defer cancel()
	if err := v.fetchKeyring(ctx); err != nil {
		return err
	}
	keys, err := v.config.Encryption.Keys(os.Getenv)
	if err != nil {
		return err
	}
	v.codec.Keys, err = seal.OpenKeyring(ctx, envelope.File{
		FS: v.deps.FS, Path: filepath.Join(v.config.Dir, keyringName), Keys: keys,
		Template: seal.Template(), Clock: v.deps.Clock, Used: v.deps.KeyUsed,
	})
	return err
}

func (v *Vault) fetchKeyring(ctx context.Context) error {
	path := filepath.Join(v.config.Dir, keyringName)
	if v.deps.Replica == nil || exists(path) {
		return nil
	}
	data, err := v.getSmall(ctx, keyringName)
	if fault.Is(err, fault.NotFound) {
		return nil // the first node makes them
	}
	if err != nil {
		return fmt.Errorf("get keyring from the second store: %w", err)
	}
	return durable.WriteFile(v.deps.FS, path, data, 0o600)
}

// shareKeyring has the second store's keyring and this vault's hold the same keys:
// nodes with vaults of their own share the store, and each may add one. What was put
// is looked at again, since two may put at the same time. It never fails with
// [fault.Corrupt], which would be a checkpoint's.
func (v *Vault) shareKeyring(ctx context.Context) error {
	for range shareTries {
		if done, err := v.shareOnce(ctx); done || err != nil {
			return err
		}
	}
	return fault.New(fault.Unavailable, "share keyring: other nodes change that of the second store all the time")
}

// shareOnce tells whether nothing was lacking; what was has been put.
func (v *Vault) shareOnce(ctx context.Context) (done bool, err error) {
	there, thereErr := v.getSmall(ctx, keyringName)
	// What is damaged is replaced.
	if thereErr != nil && !fault.Is(thereErr, fault.NotFound) && !fault.Is(thereErr, fault.Corrupt) {
		return false, fmt.Errorf("get keyring from the second store: %w", thereErr)
	}
	path := filepath.Join(v.config.Dir, keyringName)
	here, err := os.ReadFile(path)
	if err != nil {
		return false, fmt.Errorf("read keyring: %w", err)
	}
	both := digestOf(here) + digestOf(there)
	if thereErr == nil && (bytes.Equal(there, here) || v.sharedKeys.Load() == both) {
		return true, nil
	}
	// Without its outer key nobody can tell which of two is good: that of the second
	// store stays.
	lacking := thereErr != nil
	if v.codec.Keys != nil {
		if lacking, err = v.takeKeys(ctx, here, there, thereErr == nil); err != nil {
			return false, err
		}
	}
	after, err := os.ReadFile(path)
	switch {
	case err != nil:
		return false, fmt.Errorf("read keyring: %w", err)
	case !bytes.Equal(after, here): // a key came in
		return false, nil
	case lacking:
		return false, v.deps.Replica.Put(ctx, keyringName, bytes.NewReader(here), int64(len(here)))
	}
	v.sharedKeys.Store(both)
	return true, nil
}

// takeKeys takes in the keys that there has, if it is given, and tells whether it
// lacks any; one that is damaged lacks all. Here is this vault's keyring.
func (v *Vault) takeKeys(ctx context.Context, here, there []byte, given bool) (lacking bool, err error) {
	if err := v.codec.Keys.Opens(ctx, here); fault.Is(err, fault.Corrupt) {
		return false, fault.WithHint(fault.New(fault.Precondition, "share keyring: this vault's own is damaged: %w", err),
			"put a good copy in its place; the second store may have one, as "+keyringName)
	}
	if !given {
		return true, nil
	}
	lacking, err = v.codec.Keys.Merge(ctx, there)
	if fault.Is(err, fault.Corrupt) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("take in the keys of the second store: %w", err)
	}
	return lacking, nil
}
