package vault

import (
	"os"
	"path/filepath"
)

// Abandon removes what a rank began and says that it will not commit. What it
// did not begin, or has committed, is left alone.
func (v *Vault) Abandon(runID, checkpointID string, rank uint32) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if s := v.staged[key{runID, checkpointID, rank}]; s != nil && !s.committed && !s.committing {
		v.discard(s)
	}
}

// Standing tells what is known of a checkpoint that a rank of a run speaks of:
// whether it is another run's, and whether the rank has handed it over, from
// when on the vault alone says what becomes of it.
func (v *Vault) Standing(runID, checkpointID string, rank uint32) (foreign, committed bool) {
	v.mu.Lock()
	for k, s := range v.staged {
		if k.checkpointID != checkpointID {
			continue
		}
		foreign = foreign || k.runID != runID
		committed = committed || (k.runID == runID && k.rank == rank && (s.committed || s.committing))
	}
	v.mu.Unlock()
	if CheckRunID(runID) != nil || CheckCheckpointID(checkpointID) != nil {
		return foreign, committed
	}
	if _, err := os.Lstat(v.rankDir(key{runID, checkpointID, rank})); err == nil {
		return false, true
	}
	runs, err := os.ReadDir(v.config.Dir)
	if err != nil {
		return foreign, committed
	}
	for _, run := range runs {
		if _, err := os.Lstat(filepath.Join(v.config.Dir, run.Name(), checkpointID)); err == nil && run.Name() != runID {
			return true, committed
		}
	}
	return foreign, committed
}
