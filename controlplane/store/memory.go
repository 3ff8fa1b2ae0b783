package store

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/vigil-ml/vigil/internal/fault"
)

// Memory is what one receiver keeps of incidents for later. It is safe for
// concurrent use.
type Memory struct {
	store    *Store
	receiver string
}

// Memory gives a receiver's memory.
func (s *Store) Memory(receiver string) *Memory { return &Memory{s, receiver} }

// Recall gives the value of a key, "" when there is none.
func (m *Memory) Recall(ctx context.Context, key string) (value string, err error) {
	err = m.store.View(ctx, func(tx *Tx) error {
		return tx.one("memory of receiver "+m.receiver, "SELECT value FROM receiver_memory WHERE receiver = $1 AND key = $2",
			[]any{m.receiver, key}, &value)
	})
	if fault.Is(err, fault.NotFound) {
		return "", nil
	}
	return value, err
}

// Remember sets the value of a key; "" forgets it.
func (m *Memory) Remember(ctx context.Context, key, value string) error {
	return m.store.Update(ctx, func(tx *Tx) (err error) {
		if value == "" {
			_, err = tx.exec("DELETE FROM receiver_memory WHERE receiver = $1 AND key = $2", m.receiver, key)
		} else {
			_, err = tx.exec(`INSERT INTO receiver_memory (receiver, key, value) VALUES ($1, $2, $3)
				ON CONFLICT (receiver, key) DO UPDATE SET value = excluded.value`, m.receiver, key, value)
		}
		if err != nil {
			return fmt.Errorf("remember for receiver %s: %w", m.receiver, err)
		}
		return nil
	})
}

// All gives every key with its value.
func (m *Memory) All(ctx context.Context) (map[string]string, error) {
	all := map[string]string{}
	err := m.store.View(ctx, func(tx *Tx) error {
		return tx.each("memory of receiver "+m.receiver, "SELECT key, value FROM receiver_memory WHERE receiver = $1",
			[]any{m.receiver}, func(rows *sql.Rows) error {
				var key, value string
				err := rows.Scan(&key, &value)
				all[key] = value
				return err
			})
	})
	return all, err
}
