package vault

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/vigil-ml/vigil/internal/scratch"
)

const (
	// sparesName is the directory of the staging root in memory with the files that
	// are kept for the next checkpoint of each rank.
	sparesName = ".spare"
	// maxSpares is how many files of a rank are kept.
	maxSpares = 64
	// spareTime is how long they are kept for a rank that does not save.
	spareTime = time.Hour
	// spareRoom is how many times the bytes that are kept must still be free.
	spareRoom = 2
)

// spares is what is kept of a rank's last checkpoint: its files, once they are
// sealed. Their memory is there, and the rank's next checkpoint needs as much;
// to get it anew takes several times as long as to copy into it, and while it
// does, training stands still.
type spares struct {
	dir       string
	sizeBytes int64
	kept      time.Time
}

// keepSpares keeps the files of a sealed staging, provided that they lie in
// memory, that there is more, that none are kept already, and that the rank takes
// what is kept for it. The vault's lock is held.
func (v *Vault) keepSpares(s *staging) {
	if !v.inMemory(s) || v.spared[s.of()] != nil || v.unused(s) {
		return
	}
	free, err := freeBytes(v.memory)
	files, size, listErr := s.list()
	if err != nil || listErr != nil || size < scratch.SpareLeast || free < spareRoom*size {
		return
	}
	kept := &spares{dir: filepath.Join(v.memory, sparesName, s.RunID, strconv.Itoa(int(s.Rank))), kept: v.deps.Clock()}
	if v.deps.FS.RemoveAll(kept.dir) != nil || v.deps.FS.MkdirAll(kept.dir, 0o700) != nil {
		return
	}
	for i, file := range files {
		if file.info.Size() < scratch.SpareLeast || i >= maxSpares || !scratch.Alone(file.info) {
			continue
		}
		if v.deps.FS.Rename(filepath.Join(s.filesDir(), filepath.FromSlash(file.name)), filepath.Join(kept.dir, strconv.Itoa(i))) == nil {
			kept.sizeBytes += file.info.Size()
		}
	}
	v.spared[s.of()] = kept
	v.countSpares()
}

// countSpares tells how much is held. The vault's lock is held.
func (v *Vault) countSpares() {
	held := int64(0)
	for _, kept := range v.spared {
		held += kept.sizeBytes
	}
	v.spare.WithLabelValues().Set(float64(held))
}

// inMemory tells whether a staging lies in memory.
func (v *Vault) inMemory(s *staging) bool {
	return v.memory != "" && s.dir == stagingPath(v.memory, s.key())
}

// unused tells whether a rank had spare files and took none: it knows nothing of
// them, and the memory is not to be held for it.
func (v *Vault) unused(s *staging) bool {
	if s.spares == 0 {
		return v.unaware[s.of()]
	}
	left, err := os.ReadDir(filepath.Join(s.dir, scratch.SpareName))
	if len(v.unaware) >= maxSizes {
		clear(v.unaware)
	}
	v.unaware[s.of()] = err == nil && len(left) >= s.spares
	return v.unaware[s.of()]
}

// giveSpares puts what is kept for a rank beside the directory that it writes to.
// The vault's lock is held.
func (v *Vault) giveSpares(s *staging) {
	kept := v.spared[s.of()]
	if kept == nil {
		return
	}
	delete(v.spared, s.of())
	v.countSpares()
	if v.inMemory(s) && v.deps.FS.Rename(kept.dir, filepath.Join(s.dir, scratch.SpareName)) == nil {
		entries, _ := os.ReadDir(filepath.Join(s.dir, scratch.SpareName))
		s.spares = len(entries)
		return
	}
	v.drop(kept)
}

// dropSpares gives back what is kept and which chooses. The vault's lock is held.
func (v *Vault) dropSpares(which func(key, *spares) bool) {
	for k, kept := range v.spared {
		if which(k, kept) {
			delete(v.spared, k)
			v.drop(kept)
		}
	}
	v.countSpares()
}

// drop has a directory removed by Run: to give much memory back takes a while.
func (v *Vault) drop(kept *spares) {
	gone := kept.dir + "." + strconv.FormatInt(v.deps.Clock().UnixNano(), 36)
	if v.deps.FS.Rename(kept.dir, gone) != nil {
		gone = kept.dir
	}
	v.dropped = append(v.dropped, gone)
	select {
	case v.dropping <- struct{}{}:
	default:
	}
}

// removeDropped removes what was dropped, until ctx ends. What is left then goes
// with [Vault.clearSpares].
func (v *Vault) removeDropped(ctx context.Context) error {
	for {
		v.mu.Lock()
		dropped := v.dropped
		v.dropped = nil
		v.mu.Unlock()
		for _, dir := range dropped {
			if err := v.deps.FS.RemoveAll(dir); err != nil {
				v.deps.Log.Warn("remove files of a sealed checkpoint", "directory", dir, "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-v.dropping:
		}
	}
}

// clearSpares removes all that is kept, or that an agent before kept: files in
// memory are for one life of the agent.
func (v *Vault) clearSpares() {
	if v.memory == "" {
		return
	}
	v.mu.Lock()
	clear(v.spared)
	v.countSpares()
	v.mu.Unlock()
	if err := v.deps.FS.RemoveAll(filepath.Join(v.memory, sparesName)); err != nil {
		v.deps.Log.Warn("remove files of sealed checkpoints", "error", err)
	}
}
