// Package scratch writes a checkpoint's files into the directory that the agent
// gave for it.
//
// Such a directory lies in memory, and what takes time there is to get the
// memory, not to copy into it. So the agent keeps the files of the checkpoint
// before, once they are sealed, and leaves them in a directory beside the one
// that it gives ([SpareName]): whoever writes takes one of them, writes over what
// is in it, and cuts it to what was written. A [Writer] also keeps its files
// mapped, so that to write one again is to copy memory and nothing else.
package scratch

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
)

const (
	// SpareName is the directory beside a staging directory with files whose memory
	// is there already. A file in it is for whoever renames it; what it holds is of
	// no use.
	SpareName = "spare"
	// SpareLeast is the size in bytes from which a file is worth keeping.
	SpareLeast = 1 << 20
	// maxMapped is how many files a Writer keeps mapped.
	maxMapped = 64
)

// Writer writes files for one checkpoint after another. Between two of them it
// holds on to the memory of those that it wrote, even when the agent gives it
// back, until the next one or Close. It is safe for concurrent use.
type Writer struct {
	group *life.Group // maps what was written

	mu     sync.Mutex
	dir    string // that the last file was written to
	mapped map[identity]*mapping
}

// NewWriter makes a Writer; the caller closes it.
func NewWriter() *Writer {
	return &Writer{group: life.NewGroup(context.Background()), mapped: map[identity]*mapping{}}
}

// identity is which file a file is, whatever its name.
type identity struct{ device, inode uint64 }

// mapping is a file's memory in this process.
type mapping struct{ memory []byte }

// spare is a file that may be written over.
type spare struct {
	path      string
	id        identity
	sizeBytes int64
}

// WriteFile puts a file into a staging directory; name is one path element.
func (w *Writer) WriteFile(dir, name string, data []byte) error {
	path := filepath.Join(dir, name)
	if len(data) < SpareLeast {
		return os.WriteFile(path, data, 0o600)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	spares := list(filepath.Join(filepath.Dir(dir), SpareName))
	if dir != w.dir {
		w.forget(spares)
		w.dir = dir
	}
	if one, ok := w.choose(spares, int64(len(data))); ok && os.Rename(one.path, path) == nil {
		m := w.mapped[one.id]
		switch {
		case m == nil || one.sizeBytes < int64(len(data)): // a page that is not there cannot be had so
		case m.fill(data) == nil:
			return os.Truncate(path, int64(len(data)))
		default:
			delete(w.mapped, one.id)
			_ = m.close()
		}
	}
	return w.write(path, data)
}

// write writes over what is there, and has it mapped for the next time.
func (w *Writer) write(path string, data []byte) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, 0)
	if err == nil {
		err = f.Truncate(int64(len(data)))
	}
	id, ok := identify(f)
	if err != nil || !ok || len(w.mapped) >= maxMapped || w.mapped[id] != nil {
		return errors.Join(err, f.Close())
	}
	// To map it takes about as long as to write it, and nobody waits for it.
	w.group.Go("map file", func(context.Context) error {
		defer func() { _ = f.Close() }()
		m, err := mapFile(f, len(data))
		if err != nil {
			return nil //nolint:nilerr // the next time it is written as this time
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.mapped == nil || w.mapped[id] != nil {
			return m.close()
		}
		w.mapped[id] = m
		return nil
	})
	return nil
}

// forget gives back the memory of files that are not among those that may be
// written over: what was not sealed yet, and what is gone.
func (w *Writer) forget(spares []spare) {
	back := map[identity]bool{}
	for _, s := range spares {
		back[s.id] = true
	}
	for id, m := range w.mapped {
		if !back[id] {
			delete(w.mapped, id)
			_ = m.close()
		}
	}
}

// choose gives the file to write over: one that is mapped, before others; of
// these the smallest with room, else the largest.
func (w *Writer) choose(spares []spare, sizeBytes int64) (best spare, ok bool) {
	better := func(a, b spare) bool {
		if mappedA, mappedB := w.mapped[a.id] != nil, w.mapped[b.id] != nil; mappedA != mappedB {
			return mappedA
		}
		if roomA, roomB := a.sizeBytes >= sizeBytes, b.sizeBytes >= sizeBytes; roomA != roomB {
			return roomA
		} else if roomA {
			return a.sizeBytes < b.sizeBytes
		}
		return a.sizeBytes > b.sizeBytes
	}
	for _, s := range spares {
		if !ok || better(s, best) {
			best, ok = s, true
		}
	}
	return best, ok
}

// list gives the files in a directory that may be written over.
func list(dir string) (spares []spare) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || !info.Mode().IsRegular() || !Alone(info) {
			continue
		}
		if id, ok := identityOf(info); ok {
			spares = append(spares, spare{path: filepath.Join(dir, entry.Name()), id: id, sizeBytes: info.Size()})
		}
	}
	return spares
}

// Close gives back what is held.
func (w *Writer) Close() error {
	w.group.Stop()
	err := w.group.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forget(nil)
	w.mapped = nil
	return err
}

func identify(f *os.File) (identity, bool) {
	info, err := f.Stat()
	if err != nil {
		return identity{}, false
	}
	return identityOf(info)
}

var errLost = fault.New(fault.Unavailable, "write into a file's memory: it is not there any more")
