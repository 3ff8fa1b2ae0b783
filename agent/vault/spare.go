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
	// takenName is where they go on the way there.
	takenName = "taken"
	// maxSpares is how many files of a rank are kept.
	maxSpares = 64
	// spareTime is how long they are kept for a rank that does not save.
	spareTime = time.Hour
	// removeAgain is when it is tried again to remove what could not be removed.
	removeAgain = time.Minute
	// spareRoom is how many times the bytes that are kept must still be free.
	spareRoom = 2
)

// spares is what is kept of a rank's last checkpoint: its files, once they are
// sealed. Their memory is there, and the rank's next checkpoint needs as much;
// to get it anew takes several times as long as to copy into it, and while it
// does, training stands still.
type spares struct {
	dir       string
	owner     *int // whose files they are; nil: the agent's own user's
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
	kept := &spares{dir: filepath.Join(v.memory, sparesName, s.RunID, strconv.Itoa(int(s.Rank))), owner: s.Owner, kept: v.deps.Clock()}
	taken := filepath.Join(s.dir, takenName)
	if v.deps.FS.RemoveAll(kept.dir) != nil || v.deps.FS.MkdirAll(filepath.Dir(kept.dir), 0o700) != nil || os.Mkdir(taken, 0o700) != nil {
		return
	}
	if kept.sizeBytes = s.takeSpares(files); v.deps.FS.Rename(taken, kept.dir) != nil {
		return
	}
	v.spared[s.of()] = kept
	v.countSpares()
}

// takeSpares moves files that are worth keeping out of their owner's reach, and
// gives their bytes. Each is looked at once more there: before, its owner could
// change what its name led to.
func (s *staging) takeSpares(files []stagedFile) (sizeBytes int64) {
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return 0
	}
	defer func() { _ = root.Close() }()
	for i, file := range files {
		if file.info.Size() < scratch.SpareLeast || i >= maxSpares {
			continue
		}
		to := filepath.Join(takenName, strconv.Itoa(i))
		if root.Rename(filepath.Join(filesName, filepath.FromSlash(file.name)), to) != nil {
			continue
		}
		if info, err := root.Lstat(to); err == nil && info.Mode().IsRegular() && scratch.Alone(info) && s.owns(info) {
			sizeBytes += info.Size()
			continue
		}
		_ = root.RemoveAll(to)
	}
	return sizeBytes
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
	dir := filepath.Join(s.dir, scratch.SpareName)
	if v.inMemory(s) && sameUser(kept.owner, s.Owner) && v.deps.FS.Rename(kept.dir, dir) == nil {
		if s.Owner != nil && os.Lchown(dir, *s.Owner, -1) != nil {
			return // and it goes with the staging
		}
		entries, _ := os.ReadDir(dir)
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
	v.removeLater(gone)
}

// removeLater has a directory removed by Run. The vault's lock is held.
func (v *Vault) removeLater(dir string) {
	v.dropped = append(v.dropped, dir)
	select {
	case v.dropping <- struct{}{}:
	default:
	}
}

// removeDropped removes what was dropped, until ctx ends; what cannot be is tried
// again. What is left then goes with [Vault.clearSpares] and [Vault.clearGone].
func (v *Vault) removeDropped(ctx context.Context) error {
	for {
		v.mu.Lock()
		dropped := v.dropped
		v.dropped = nil
		v.mu.Unlock()
		var again <-chan time.Time
		for _, dir := range dropped {
			if err := v.deps.FS.RemoveAll(dir); err != nil {
				v.deps.Log.Warn("remove files of a checkpoint", "directory", dir, "error", err)
				v.mu.Lock()
				v.dropped = append(v.dropped, dir)
				v.mu.Unlock()
				again = time.After(removeAgain)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-v.dropping:
		case <-again:
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
