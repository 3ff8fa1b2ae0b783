package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/life"
)

// board is where the ranks of a run leave notes for each other. A note is written
// once: who comes second finds what the first wrote. It is for one goroutine.
type board interface {
	// newest gives the newest round that was seen; 0: none.
	newest() int
	// names gives the names of a round's notes.
	names(round int) []string
	// read reads a note, and tells whether it is there.
	read(round int, name string, into any) bool
	// post writes a note and fails with [os.ErrExist] when it is there already;
	// what is there can be read then.
	post(ctx context.Context, round int, name string, content any) error
	// look waits for a while, or until there may be something new.
	look(ctx context.Context, wait time.Duration) error
}

// files is the board on the storage that the nodes of a run share: a directory a
// round.
type files struct {
	fsys durable.FS
	dir  string
}

func (b *files) newest() int {
	newest := 0
	entries, _ := os.ReadDir(b.dir)
	for _, entry := range entries {
		if n, err := strconv.Atoi(entry.Name()); err == nil {
			newest = max(newest, n)
		}
	}
	return newest
}

func (b *files) names(round int) []string {
	entries, _ := os.ReadDir(b.path(round, ""))
	names := make([]string, 0, len(entries))
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

func (b *files) read(round int, name string, into any) bool {
	return readInto(b.path(round, name), into) == nil
}

func (b *files) post(_ context.Context, round int, name string, content any) error {
	if err := os.MkdirAll(b.path(round, ""), 0o700); err != nil {
		return err
	}
	b.sweepBefore(round)
	return writeOnce(b.path(round, name), content)
}

func (b *files) look(ctx context.Context, wait time.Duration) error {
	if !life.Sleep(ctx, wait) {
		return ctx.Err()
	}
	return nil
}

// sweepBefore removes rounds that nobody reads any more; the one before stays
// for those who are still in it.
func (b *files) sweepBefore(round int) {
	entries, _ := os.ReadDir(b.dir)
	for _, entry := range entries {
		if n, err := strconv.Atoi(entry.Name()); err == nil && n < round-1 {
			_ = b.fsys.RemoveAll(filepath.Join(b.dir, entry.Name()))
		}
	}
}

func (b *files) path(round int, name string) string {
	return filepath.Join(b.dir, fmt.Sprintf("%08d", round), name)
}

// writeOnce makes a file with all of its content, and fails with [os.ErrExist]
// when it is there. It need not survive a crash: processes that agree live.
func writeOnce(path string, content any) error {
	data, err := json.Marshal(content)
	if err != nil {
		return err
	}
	beside := filepath.Join(filepath.Dir(path), ".new-"+uuid.NewString())
	if err := os.WriteFile(beside, data, 0o600); err != nil {
		return err
	}
	defer func() { _ = os.Remove(beside) }()
	return os.Link(beside, path)
}

func readInto(path string, into any) error {
	data, err := readBounded(path, 1<<20)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}
