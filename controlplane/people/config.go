package people

import (
	"fmt"
	"os"

	"github.com/vigil-ml/vigil/internal/envelope"
)

// Config says where the outer key is that encrypts the records' keys; at most one
// source is given. Without any it is derived from the audit log's key.
type Config struct {
	// KeyFile has 32 bytes in base64, readable by the control plane's user alone.
	KeyFile string `yaml:"key_file"`
	// KeyEnv names an environment variable that has them.
	KeyEnv string `yaml:"key_env"`
	// Command is a program that encrypts and decrypts with a key of a key
	// management service, see [envelope.OfCommand].
	Command []string `yaml:"command"`
	// KeyID names the key of Command.
	KeyID string `yaml:"key_id"`
	// Previous is where the keys are that were used before this one: the records'
	// keys still open with them, until they are encrypted with the new one.
	Previous []envelope.Source `yaml:"previous"`
}

func (c Config) source() envelope.Source {
	return envelope.Source{KeyFile: c.KeyFile, KeyEnv: c.KeyEnv, Command: c.Command, KeyID: c.KeyID}
}

// On tells whether a key is configured.
func (c Config) On() bool { return c.source().On() }

// Check reports settings that contradict each other.
func (c Config) Check(report func(key, format string, args ...any)) {
	c.source().Check(report)
	for i, old := range c.Previous {
		if !old.On() {
			report(fmt.Sprintf("previous[%d]", i), "names no key")
		}
	}
}

// Keys gives the outer keys. Derived is the key of an installation that
// configures none, 32 bytes; it is nil where that cannot be known, and then one
// must be configured.
func (c Config) Keys(derived []byte) (envelope.Keys, error) {
	var own []envelope.KEK
	if derived != nil {
		kek, err := envelope.NewKEK(derived, "the audit log's key")
		if err != nil {
			return envelope.Keys{}, err
		}
		own = append(own, kek)
	}
	if !c.On() && len(own) > 0 {
		keys := envelope.Keys{Current: own[0]}
		for i, source := range c.Previous { // a site that goes back to none
			old, err := source.KEK(os.Getenv)
			if err != nil {
				return envelope.Keys{}, fmt.Errorf("previous key %d: %w", i, err)
			}
			keys.Previous = append(keys.Previous, old)
		}
		return keys, nil
	}
	keys, err := envelope.KeysOf(c.source(), c.Previous, os.Getenv)
	if err != nil {
		return envelope.Keys{}, fmt.Errorf("outer key of the records (protection): %w", err)
	}
	keys.Previous = append(keys.Previous, own...)
	return keys, nil
}
