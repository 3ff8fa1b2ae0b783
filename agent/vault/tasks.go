package vault

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// exportsName is the directory of the vault that checkpoints are restored and
// exported to, where the configuration names no other.
const exportsName = ".exports"

// Do does something with a checkpoint that is in the vault, all ranks of it, and
// says what came of it, for a person. Progress is told of the bytes that are done
// and those that there are; it is called often. It fails with [fault.NotFound]
// when there is no such checkpoint here, [fault.Precondition] when it must not be
// removed, and [fault.Corrupt] when its files do not agree with their manifest.
func (v *Vault) Do(ctx context.Context, task *commonv1.CheckpointTask, progress func(done, total int64)) (string, error) {
	runID, id := task.GetRunId(), task.GetCheckpointId()
	if err := errors.Join(CheckRunID(runID), CheckCheckpointID(id)); err != nil {
		return "", err
	}
	switch task.GetAction() {
	case commonv1.CheckpointAction_CHECKPOINT_ACTION_REWRAP_KEYS:
		return v.RotateKeys(ctx, false, progress)
	case commonv1.CheckpointAction_CHECKPOINT_ACTION_ROTATE_KEYS:
		return v.RotateKeys(ctx, true, progress)
	}
	list, err := v.List(runID)
	if err != nil {
		return "", err
	}
	at := slices.IndexFunc(list, func(c Checkpoint) bool { return c.ID == id })
	if at < 0 {
		return "", fault.New(fault.NotFound, "checkpoint %s of run %s is not in the vault %s", id, runID, v.config.Dir)
	}
	c := list[at]
	switch task.GetAction() {
	case commonv1.CheckpointAction_CHECKPOINT_ACTION_VERIFY:
		return v.verifyAgain(ctx, runID, c, progress)
	case commonv1.CheckpointAction_CHECKPOINT_ACTION_PIN:
		return v.pin(ctx, runID, c, task.GetReason())
	case commonv1.CheckpointAction_CHECKPOINT_ACTION_UNPIN:
		return v.unpin(ctx, runID, c)
	case commonv1.CheckpointAction_CHECKPOINT_ACTION_REMOVE:
		return v.removeByHand(ctx, runID, c, list, task.GetReason())
	case commonv1.CheckpointAction_CHECKPOINT_ACTION_RESTORE:
		return v.restoreAll(ctx, runID, c, progress)
	case commonv1.CheckpointAction_CHECKPOINT_ACTION_EXPORT:
		return v.export(ctx, runID, c, progress)
	}
	return "", fault.New(fault.Unsupported, "this agent does not know the action %d", task.GetAction())
}

// meter tells how far the reading of a checkpoint is.
type meter struct {
	done, total int64
	tell        func(done, total int64)
}

func newMeter(c Checkpoint, tell func(done, total int64)) *meter {
	m := &meter{tell: tell}
	for _, manifest := range c.Ranks {
		m.total += manifest.StoredBytes
	}
	return m
}

// reading counts what is read of a file.
func (m *meter) reading(in io.Reader) io.Reader { return &metered{in, m} }

type metered struct {
	from io.Reader
	m    *meter
}

// Read reads and counts.
func (r *metered) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	r.m.done += int64(n)
	r.m.tell(r.m.done, r.m.total)
	return n, err
}

// ranksOf gives a checkpoint's ranks in order, or what keeps it from being read.
func ranksOf(c Checkpoint) ([]uint32, error) {
	if whole := c.missing(); whole != "" {
		return nil, fault.New(fault.Precondition, "checkpoint %s is not whole: %s", c.ID, whole)
	}
	return slices.Sorted(maps.Keys(c.Ranks)), nil
}

// verifyAgain reads everything back. A rank that does not agree loses its mark:
// nobody resumes from it until it is whole again.
func (v *Vault) verifyAgain(ctx context.Context, runID string, c Checkpoint, progress func(done, total int64)) (string, error) {
	ranks, err := ranksOf(c)
	if err != nil {
		return "", err
	}
	m := newMeter(c, progress)
	files := 0
	for _, rank := range ranks {
		dir := v.rankDir(key{runID, c.ID, rank})
		err := v.readFiles(dir, c.Ranks[rank], func(f File, in *os.File) error {
			files++
			from, closed := fromDisk(ctx, in, f.StoredBytes)
			defer closed()
			return v.codec.Decode(ctx, io.Discard, m.reading(from), c.Ranks[rank].encoded(f), c.Ranks[rank].binding(f.Name))
		})
		if fault.Is(err, fault.Corrupt) {
			err = errors.Join(err, v.deps.FS.RemoveAll(filepath.Join(dir, verifiedName)))
		}
		if err != nil {
			return "", fmt.Errorf("verify checkpoint: rank %d: %w", rank, err)
		}
	}
	return fmt.Sprintf("every byte of %d files of %d ranks agrees with its digest", files, len(ranks)), nil
}

func (v *Vault) pin(ctx context.Context, runID string, c Checkpoint, reason string) (string, error) {
	path := filepath.Join(v.runDir(runID), c.ID, pinnedName)
	mark := fmt.Sprintf("{\"reason\":%q,\"time\":%q}\n", reason, v.deps.Clock().UTC().Format(time.RFC3339Nano))
	if err := durable.WriteFile(v.deps.FS, path, []byte(mark), 0o600); err != nil {
		return "", fmt.Errorf("pin checkpoint: %w", err)
	}
	v.announce(ctx, runID, &commonv1.CheckpointChanged{
		CheckpointId: c.ID, Change: commonv1.CheckpointChange_CHECKPOINT_CHANGE_PINNED, Reasons: []string{"pinned"}, Step: c.Step,
	})
	return "it is kept until it is unpinned", nil
}

func (v *Vault) unpin(ctx context.Context, runID string, c Checkpoint) (string, error) {
	dir := filepath.Join(v.runDir(runID), c.ID)
	v.keeping.Lock() // the policy may remove it as soon as the mark is gone
	err := errors.Join(v.deps.FS.RemoveAll(filepath.Join(dir, pinnedName)), v.deps.FS.SyncDir(dir))
	v.keeping.Unlock()
	if err != nil {
		return "", fmt.Errorf("unpin checkpoint: %w", err)
	}
	v.announce(ctx, runID, &commonv1.CheckpointChanged{
		CheckpointId: c.ID, Change: commonv1.CheckpointChange_CHECKPOINT_CHANGE_UNPINNED, Step: c.Step,
	})
	v.keep(ctx, runID)
	return "it is left to the retention policy", nil
}

// removeByHand refuses what nobody may remove by a slip of the fingers.
func (v *Vault) removeByHand(ctx context.Context, runID string, c Checkpoint, list []Checkpoint, reason string) (string, error) {
	v.keeping.Lock()
	defer v.keeping.Unlock()
	last := slices.IndexFunc(list, func(c Checkpoint) bool { return c.Problem == "" && c.Health == healthy })
	described := v.described(runID, list)
	at := slices.IndexFunc(list, func(other Checkpoint) bool { return other.ID == c.ID })
	switch {
	case c.Pinned:
		return "", fault.WithHint(fault.New(fault.Precondition, "checkpoint %s is pinned", c.ID), "agentctl checkpoints pin --remove "+c.ID)
	case at == last:
		return "", fault.New(fault.Precondition, "checkpoint %s is the last verified healthy one of run %s", c.ID, runID)
	case described[at].InUse:
		return "", fault.New(fault.Precondition, "checkpoint %s is in use: training went on from it, or it is being saved", c.ID)
	}
	why := "removed by hand"
	if reason != "" {
		why += ": " + reason
	}
	if err := v.remove(ctx, runID, described[at], []string{why}); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d bytes are free again", described[at].SizeBytes), nil
}

// exportPath is where a checkpoint's files are written for people.
func (v *Vault) exportPath(runID, name string) (string, error) {
	dir := filepath.Join(v.config.ExportDir, runID)
	if err := v.deps.FS.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make directory for exports: %w", err)
	}
	return filepath.Join(dir, name), nil
}

// restoreAll writes the files of every rank below a directory that takes the
// place of an earlier one.
func (v *Vault) restoreAll(ctx context.Context, runID string, c Checkpoint, progress func(done, total int64)) (string, error) {
	ranks, err := ranksOf(c)
	if err != nil {
		return "", err
	}
	to, err := v.exportPath(runID, c.ID)
	if err != nil {
		return "", err
	}
	beside := to + ".partial"
	if err := errors.Join(v.deps.FS.RemoveAll(beside), v.deps.FS.RemoveAll(to), v.deps.FS.MkdirAll(beside, 0o700)); err != nil {
		return "", fmt.Errorf("restore checkpoint: %w", err)
	}
	m := newMeter(c, progress)
	for _, rank := range ranks {
		err := v.restore(ctx, v.rankDir(key{runID, c.ID, rank}), c.Ranks[rank], filepath.Join(beside, rankName(rank)), m.reading)
		if err != nil {
			return "", errors.Join(fmt.Errorf("restore checkpoint: rank %d: %w", rank, err), v.deps.FS.RemoveAll(beside))
		}
	}
	if err := v.deps.FS.Rename(beside, to); err != nil {
		return "", fmt.Errorf("restore checkpoint: %w", err)
	}
	return to, nil
}

// export writes the files of every rank into one tar file.
func (v *Vault) export(ctx context.Context, runID string, c Checkpoint, progress func(done, total int64)) (_ string, err error) {
	ranks, err := ranksOf(c)
	if err != nil {
		return "", err
	}
	to, err := v.exportPath(runID, c.ID+".tar")
	if err != nil {
		return "", err
	}
	beside := to + ".partial"
	out, err := v.deps.FS.OpenFile(beside, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return "", fmt.Errorf("export checkpoint: %w", err)
	}
	m, w := newMeter(c, progress), tar.NewWriter(out)
	for _, rank := range ranks {
		if err = v.pack(ctx, w, key{runID, c.ID, rank}, c.Ranks[rank], m); err != nil {
			break
		}
	}
	if err == nil {
		err = errors.Join(w.Close(), out.Sync())
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return "", errors.Join(fmt.Errorf("export checkpoint: %w", err), v.deps.FS.RemoveAll(beside))
	}
	if err := v.deps.FS.Rename(beside, to); err != nil {
		return "", fmt.Errorf("export checkpoint: %w", err)
	}
	return to, nil
}

// pack writes one rank's files.
func (v *Vault) pack(ctx context.Context, w *tar.Writer, k key, m *Manifest, count *meter) error {
	return v.readFiles(v.rankDir(k), m, func(f File, in *os.File) error {
		err := w.WriteHeader(&tar.Header{
			Name: rankName(k.rank) + "/" + f.Name, Mode: 0o600, Size: f.SizeBytes, ModTime: m.Created, Format: tar.FormatPAX,
		})
		if err != nil {
			return err
		}
		return v.codec.Decode(ctx, w, count.reading(in), m.encoded(f), m.binding(f.Name))
	})
}
