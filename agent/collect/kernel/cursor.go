package kernel

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/vigil-ml/vigil/internal/durable"
)

// cursor is how far the log was read: the kernel numbers its records from 0 at
// each start of the machine, and the boot id tells the starts apart.
type cursor struct {
	BootID string `json:"boot_id"`
	// Next is the number of the first record that was not taken.
	Next uint64 `json:"next"`
}

// loadCursor reads a cursor; false where there is none. One that cannot be read
// is an error, of which the caller makes none: what would be lost with it is
// that nothing is told twice.
func loadCursor(path string) (cursor, bool, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return cursor{}, false, nil
	}
	if err != nil {
		return cursor{}, false, fmt.Errorf("read cursor of the kernel log: %w", err)
	}
	var c cursor
	if err := json.Unmarshal(data, &c); err != nil || c.BootID == "" {
		return cursor{}, false, fmt.Errorf("read cursor of the kernel log %s: %q is none", path, cut(string(data), 64))
	}
	return c, true, nil
}

func (c cursor) save(fsys durable.FS, path string) error {
	data, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode cursor of the kernel log: %w", err)
	}
	return durable.WriteFile(fsys, path, append(data, '\n'), 0o600)
}
