package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// result is how a command ended.
type result struct {
	Key   string                `json:"idempotency_key"`
	Stage commonv1.CommandStage `json:"stage"`
	Error string                `json:"error,omitempty"`
	// Detail is what came of it, for a person.
	Detail string `json:"detail,omitempty"`
}

// word is the result as it is told.
func (r *result) word() *commonv1.CommandResult {
	return &commonv1.CommandResult{Stage: r.Stage, Error: r.Error, Detail: r.Detail}
}

// memory is the last commands that ended, in a file that is written anew each
// time: commands are rare. It is not safe for concurrent use.
type memory struct {
	path    string
	most    int
	fsys    durable.FS
	results []result // the oldest first
}

// openMemory always gives a memory; with an error it is empty.
func openMemory(config Config, fsys durable.FS) (*memory, error) {
	m := &memory{path: config.Path, most: max(config.Remember, 1), fsys: fsys}
	if err := fsys.MkdirAll(filepath.Dir(m.path), 0o700); err != nil {
		return m, fmt.Errorf("make directory of %s: %w", m.path, err)
	}
	data, err := os.ReadFile(m.path)
	if errors.Is(err, os.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return m, fmt.Errorf("read commands: %w", err)
	}
	if err := json.Unmarshal(data, &m.results); err != nil {
		m.results = nil
		return m, fault.New(fault.Corrupt, "decode %s: %w", m.path, err)
	}
	return m, nil
}

func (m *memory) find(key string) *result {
	i := slices.IndexFunc(m.results, func(r result) bool { return r.Key == key })
	if i < 0 {
		return nil
	}
	found := m.results[i]
	return &found
}

// add remembers a result, and forgets the oldest beyond the bound.
func (m *memory) add(r result) error {
	m.results = append(m.results, r)
	if extra := len(m.results) - m.most; extra > 0 {
		m.results = slices.Delete(m.results, 0, extra)
	}
	data, err := json.Marshal(m.results)
	if err != nil {
		return fmt.Errorf("encode commands: %w", err)
	}
	return durable.WriteFile(m.fsys, m.path, data, 0o600)
}
