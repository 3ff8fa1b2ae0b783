package people

import (
	"fmt"
	"os"

	"github.com/vigil-ml/vigil/internal/envelope"
)

// outerKeys gives the keys that encrypt the records' keys. Derived, 32 bytes, is the
// key of an installation that configures none.
func outerKeys(config envelope.Settings, derived []byte) (envelope.Keys, error) {
	own, err := envelope.NewKEK(derived, "the audit log's key")
	if err != nil {
		return envelope.Keys{}, err
	}
	keys := envelope.Keys{Current: own}
	if config.On() {
		keys, err = config.Keys(os.Getenv)
		keys.Previous = append(keys.Previous, own)
	} else { // perhaps a site that goes back to none
		keys.Previous, err = config.Before(os.Getenv)
	}
	if err != nil {
		return envelope.Keys{}, fmt.Errorf("outer key of the records (protection): %w", err)
	}
	return keys, nil
}
