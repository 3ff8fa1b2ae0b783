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
)

// Encryption says where the key is that encrypts the vault's keys. All nodes
// that share a vault need the same. At most one source is given.
type Encryption struct {
	// KeyFile has 32 bytes in base64, readable by the agent's user alone.
	KeyFile string `yaml:"key_file"`
	// KeyEnv names an environment variable that has them.
	KeyEnv string `yaml:"key_env"`
	// Command is a program that encrypts and decrypts with a key of a key
	// management service, see [envelope.OfCommand].
	Command []string `yaml:"command"`
	// KeyID names the key of Command.
	KeyID string `yaml:"key_id"`
	// Previous is where the keys are that were used before this one: the keyring
	// still opens with them, until it is encrypted with the new one.
	Previous []envelope.Source `yaml:"previous"`
}

func (e Encryption) source() envelope.Source {
	return envelope.Source{KeyFile: e.KeyFile, KeyEnv: e.KeyEnv, Command: e.Command, KeyID: e.KeyID}
}

// Check reports settings that contradict each other.
func (e Encryption) Check(report func(key, format string, args ...any)) {
	e.source().Check(report)
	for i, old := range e.Previous {
		if !old.On() {
			report(fmt.Sprintf("previous[%d]", i), "names no key")
		}
	}
	if len(e.Previous) > 0 && !e.On() {
		report("previous", "is set without a key that came after it")
	}
}

// On tells whether files are encrypted.
func (e Encryption) On() bool { return e.source().On() }

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
	keys, err := envelope.KeysOf(v.config.Encryption.source(), v.config.Encryption.Previous, os.Getenv)
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
// nodes with vaults of their own share the store, and each may add one.
func (v *Vault) shareKeyring(ctx context.Context) error {
	path := filepath.Join(v.config.Dir, keyringName)
	there, err := v.getSmall(ctx, keyringName)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return fmt.Errorf("get keyring from the second store: %w", err)
	}
	here, hereErr := os.ReadFile(path)
	if hereErr != nil {
		return fmt.Errorf("read keyring: %w", hereErr)
	}
	if err == nil && bytes.Equal(there, here) {
		return nil
	}
	if err == nil && v.codec.Keys != nil {
		lacking, err := v.codec.Keys.Merge(ctx, there)
		if err == nil && !lacking {
			return nil
		}
		if err != nil && !fault.Is(err, fault.Corrupt) { // what is damaged is replaced
			return fmt.Errorf("take in the keys of the second store: %w", err)
		}
	}
	return v.putFile(ctx, keyringName, path)
}
