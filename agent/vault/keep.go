package vault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vigil-ml/vigil/agent/vault/retain"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

const (
	// pinnedName is the mark beside a checkpoint's ranks that says that a person
	// wants it kept.
	pinnedName = "pinned.json"
	// removedSuffix is what a checkpoint's directory is renamed to before it is
	// removed: from then on there is no such checkpoint.
	removedSuffix = ".removed"
	// keepLockName is the file of a run that whoever removes checkpoints holds.
	keepLockName = ".keep.lock"
)

// keepAll applies the retention policy to every run.
func (v *Vault) keepAll(ctx context.Context) {
	entries, err := os.ReadDir(v.config.Dir)
	if err != nil {
		v.deps.Log.Warn("list runs", "error", err)
		return
	}
	for _, entry := range entries {
		if entry.IsDir() && CheckRunID(entry.Name()) == nil && ctx.Err() == nil {
			v.keep(ctx, entry.Name())
		}
	}
}

// keep applies the retention policy to a run. What fails is logged and tried
// again after the next checkpoint.
func (v *Vault) keep(ctx context.Context, runID string) {
	if v.config.Retain == (retain.Policy{MinAge: v.config.Retain.MinAge}) {
		return // all are kept
	}
	v.keeping.Lock()
	defer v.keeping.Unlock()
	unlock, err := durable.Lock(filepath.Join(v.runDir(runID), keepLockName), "removing checkpoints")
	if fault.Is(err, fault.Precondition) {
		return // another node is at it
	}
	if err == nil {
		defer unlock()
		err = v.keepRun(ctx, runID)
	}
	if err != nil && ctx.Err() == nil {
		v.deps.Log.Warn("apply retention policy", "run", runID, "error", err)
	}
}

func (v *Vault) keepRun(ctx context.Context, runID string) error {
	v.sweepRemoved(runID)
	list, err := v.List(runID)
	if err != nil {
		return err
	}
	free, err := freeBytes(v.config.Dir)
	if err != nil {
		return fmt.Errorf("measure free space: %w", err)
	}
	for _, d := range retain.Plan(v.described(runID, list), v.config.Retain, v.deps.Clock(), free) {
		if d.Keep {
			v.tellKept(ctx, runID, d)
			continue
		}
		if err := v.remove(ctx, runID, d.Checkpoint, d.Reasons); err != nil {
			return err
		}
	}
	return nil
}

// described is the run's checkpoints as the policy sees them.
func (v *Vault) described(runID string, list []Checkpoint) []retain.Checkpoint {
	out := make([]retain.Checkpoint, len(list))
	for i, c := range list {
		size, metric := int64(0), c.metric()
		for _, m := range c.Ranks {
			size += m.StoredBytes
		}
		out[i] = retain.Checkpoint{
			ID: c.ID, Step: c.Step, Created: c.Created, SizeBytes: size, Verified: c.Problem == "", Pinned: c.Pinned,
			Health: map[commonv1.CheckpointHealth]retain.Health{healthy: retain.Healthy, suspect: retain.Suspect, poisoned: retain.Poisoned}[c.Health],
			InUse:  v.inUse(runID, c, list), Metric: metric,
		}
		if c.Created.IsZero() { // no rank's manifest can be read
			out[i].Created = changedAt(filepath.Join(v.runDir(runID), c.ID))
		}
	}
	return out
}

// inUse tells whether a rank is being sealed or may be reading: training went
// on from the checkpoint and nothing good was saved since.
func (v *Vault) inUse(runID string, c Checkpoint, list []Checkpoint) bool {
	v.mu.Lock()
	for k := range v.staged {
		if k.runID == runID && k.checkpointID == c.ID {
			v.mu.Unlock()
			return true
		}
	}
	v.mu.Unlock()
	if v.deps.Replica != nil && c.Problem == "" && c.Health != poisoned {
		for rank := range c.Ranks {
			if !exists(filepath.Join(v.rankDir(key{runID, c.ID, rank}), replicatedName)) {
				return true // it waits to be copied
			}
		}
	}
	resumed := changedAt(filepath.Join(v.runDir(runID), c.ID, resumedName))
	return !resumed.IsZero() && !slices.ContainsFunc(list, func(other Checkpoint) bool {
		return other.ID != c.ID && other.Problem == "" && other.Health == healthy && other.Created.After(resumed)
	})
}

// changedAt is when something last happened at a path; the zero time where there
// is nothing.
func changedAt(path string) time.Time {
	info, err := os.Lstat(path)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// tellKept says why a checkpoint is kept, once.
func (v *Vault) tellKept(ctx context.Context, runID string, d retain.Decision) {
	id := runID + "/" + d.Checkpoint.ID
	why := strings.Join(d.Reasons, "; ")
	if v.kept[id] == why {
		return
	}
	if len(v.kept) >= maxSizes {
		clear(v.kept)
	}
	v.kept[id] = why
	v.announce(ctx, runID, &commonv1.CheckpointChanged{
		CheckpointId: d.Checkpoint.ID, Change: commonv1.CheckpointChange_CHECKPOINT_CHANGE_KEPT, Reasons: d.Reasons, Step: d.Checkpoint.Step,
	})
}

// remove takes a checkpoint out of the vault and says why.
func (v *Vault) remove(ctx context.Context, runID string, c retain.Checkpoint, reasons []string) error {
	dir := filepath.Join(v.runDir(runID), c.ID)
	gone := dir + removedSuffix
	if err := v.deps.FS.RemoveAll(gone); err != nil {
		return fmt.Errorf("remove checkpoint %s: %w", c.ID, err)
	}
	if err := v.deps.FS.Rename(dir, gone); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("remove checkpoint %s: %w", c.ID, err)
	}
	if err := v.deps.FS.SyncDir(v.runDir(runID)); err != nil {
		return fmt.Errorf("remove checkpoint %s: %w", c.ID, err)
	}
	v.deps.Log.Info("checkpoint is removed", "run", runID, "checkpoint", c.ID, "step", c.Step, "reasons", reasons)
	v.removed.WithLabelValues().Inc()
	v.announce(ctx, runID, &commonv1.CheckpointChanged{
		CheckpointId: c.ID, Change: commonv1.CheckpointChange_CHECKPOINT_CHANGE_REMOVED, Reasons: reasons, Step: c.Step, FreedBytes: c.SizeBytes,
	})
	if err := v.deps.FS.RemoveAll(gone); err != nil {
		return fmt.Errorf("remove files of checkpoint %s: %w", c.ID, err)
	}
	return nil
}

// sweepRemoved removes what an agent that died had begun to remove.
func (v *Vault) sweepRemoved(runID string) {
	left, _ := filepath.Glob(filepath.Join(v.runDir(runID), "*"+removedSuffix))
	for _, dir := range left {
		if err := v.deps.FS.RemoveAll(dir); err != nil {
			v.deps.Log.Warn("remove files of a removed checkpoint", "directory", dir, "error", err)
		}
	}
}
