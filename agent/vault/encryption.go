package vault

import (
	"os"
	"path/filepath"
	"time"

	"github.com/vigil-ml/vigil/agent/vault/seal"
	"github.com/vigil-ml/vigil/internal/durable"
)

// keyringName is the file in the vault's directory with the keys, encrypted.
const keyringName = ".keyring.json"

// Encryption says where the key is that encrypts the vault's keys. All nodes
// that share a vault need the same. At most one source is given.
type Encryption struct {
	// KeyFile has 32 bytes in base64, readable by the agent's user alone.
	KeyFile string `yaml:"key_file"`
	// KeyEnv names an environment variable that has them.
	KeyEnv string `yaml:"key_env"`
}

// Check reports settings that contradict each other.
func (e Encryption) Check(report func(key, format string, args ...any)) {
	if e.KeyFile != "" && e.KeyEnv != "" {
		report("key_env", "is set beside key_file; give one of them")
	}
}

// On tells whether files are encrypted.
func (e Encryption) On() bool { return e.KeyFile != "" || e.KeyEnv != "" }

// KEK gives the key that encrypts keys.
func (e Encryption) KEK() (seal.KEK, error) {
	if e.KeyFile != "" {
		return seal.KEKOfFile(e.KeyFile)
	}
	return seal.KEKOfEnv(e.KeyEnv, os.Getenv)
}

// open gives the vault's keys; none where nothing is to be encrypted and nothing
// was.
func (e Encryption) open(fsys durable.FS, dir string, now time.Time) (*seal.Keyring, error) {
	if !e.On() {
		return nil, nil
	}
	kek, err := e.KEK()
	if err != nil {
		return nil, err
	}
	return seal.OpenKeyring(fsys, filepath.Join(dir, keyringName), kek, now)
}
