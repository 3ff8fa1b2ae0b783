package store

import (
	"fmt"

	"github.com/vigil-ml/vigil/internal/fault"
)

// Cursor gives how far a reader of the bus has come; 0 when it has not begun.
func (tx *Tx) Cursor(name string) (uint64, error) {
	var sequence uint64
	err := tx.one("cursor "+name, "SELECT sequence FROM cursors WHERE name = $1", []any{name}, &sequence)
	if fault.Is(err, fault.NotFound) {
		return 0, nil
	}
	return sequence, err
}

// SetCursor notes how far a reader of the bus has come.
func (tx *Tx) SetCursor(name string, sequence uint64) error {
	_, err := tx.exec(`INSERT INTO cursors (name, sequence) VALUES ($1, $2)
		ON CONFLICT (name) DO UPDATE SET sequence = excluded.sequence`, name, int64(sequence))
	if err != nil {
		return fmt.Errorf("set cursor %s: %w", name, err)
	}
	return nil
}
