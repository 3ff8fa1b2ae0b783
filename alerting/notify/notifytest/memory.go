package notifytest

import (
	"context"
	"maps"
	"sync"
)

// Memory is a notifier's memory that forgets at the end of the test. The zero
// Memory is empty.
type Memory struct {
	mu     sync.Mutex
	values map[string]string
}

// Recall gives the value of a key.
func (m *Memory) Recall(_ context.Context, key string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.values[key], nil
}

// Remember sets the value of a key.
func (m *Memory) Remember(_ context.Context, key, value string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.values == nil {
		m.values = map[string]string{}
	}
	if value == "" {
		delete(m.values, key)
	} else {
		m.values[key] = value
	}
	return nil
}

// All gives every key with its value.
func (m *Memory) All(context.Context) (map[string]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.values), nil
}
