package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/vigil-ml/vigil/internal/fault"
)

// restoreName is the directory below a staging root that has the files that
// trainers resume from, where those of the vault are compressed or encrypted, or the
// trainer's user is not the agent's.
const restoreName = ".restore"

// provide gives a directory with a rank's files as the trainer wrote them,
// every byte of them checked: that of the vault where they are stored so, else
// one that they are restored to. A process of another user cannot read the vault: it
// gets them restored, and owns them.
func (v *Vault) provide(ctx context.Context, k key, m *Manifest, req ResolveRequest) (string, error) {
	rankDir, asks := v.rankDir(k), req.Rank
	if m.plain() && req.User == nil {
		return filepath.Join(rankDir, filesName), v.checkFiles(ctx, rankDir, m)
	}
	v.mu.Lock()
	root, _ := v.stagingRoot(key{}, m.SizeBytes)
	v.mu.Unlock()
	to := filepath.Join(restorePath(root, k.runID, asks), k.checkpointID)
	if k.rank != asks {
		to += "." + rankName(k.rank)
	}
	err := v.Restore(ctx, rankDir, m, to)
	if err == nil && req.User != nil {
		err = v.hand(to, *req.User)
	}
	if err != nil {
		return "", errors.Join(err, v.deps.FS.RemoveAll(to))
	}
	return to, nil
}

// restorePath is where a rank's restored files lie; one checkpoint at a time.
func restorePath(root, runID string, rank uint32) string {
	return filepath.Join(root, restoreName, runID, rankName(rank))
}

// dropRestored removes what a rank resumed from: it resumes anew, or has saved
// since and so has read it.
func (v *Vault) dropRestored(runID string, rank uint32) {
	for _, root := range []string{v.memory, v.disk} {
		if root == "" {
			continue
		}
		dir := restorePath(root, runID, rank)
		if err := v.deps.FS.RemoveAll(dir); err != nil {
			v.deps.Log.Warn("remove restored files", "directory", dir, "error", err)
			continue
		}
		if os.Remove(filepath.Dir(dir)) == nil { // where it was the run's last
			_ = os.Remove(filepath.Dir(filepath.Dir(dir)))
		}
	}
}

// sweepRestored removes restored files that nobody has touched for long: their
// run is over.
func (v *Vault) sweepRestored() {
	for _, root := range []string{v.memory, v.disk} {
		dirs, err := filepath.Glob(filepath.Join(root, restoreName, "*", "rank-*", "*"))
		if root == "" || err != nil {
			continue
		}
		for _, dir := range dirs {
			info, err := os.Lstat(dir)
			rank, ok := parseRank(filepath.Base(filepath.Dir(dir)))
			if err == nil && ok && v.deps.Clock().Sub(info.ModTime()) >= v.config.AbandonedAfter {
				v.dropRestored(filepath.Base(filepath.Dir(filepath.Dir(dir))), rank)
			}
		}
	}
}

// Restore writes a rank's files, as the trainer wrote them, into a directory
// that is not there yet, checking every byte. After an error the directory is
// of no use. They are not synced: whoever restores can do so again.
func (v *Vault) Restore(ctx context.Context, rankDir string, m *Manifest, to string) error {
	return v.restore(ctx, rankDir, m, to, func(in io.Reader) io.Reader { return in })
}

func (v *Vault) restore(ctx context.Context, rankDir string, m *Manifest, to string, through func(io.Reader) io.Reader) error {
	if err := v.deps.FS.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return fmt.Errorf("restore checkpoint: %w", err)
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		if errors.Is(err, os.ErrExist) {
			return fault.New(fault.Exists, "restore checkpoint: %s is there already", to)
		}
		return fmt.Errorf("restore checkpoint: %w", err)
	}
	return v.readFiles(rankDir, m, func(f File, in *os.File) error {
		target := filepath.Join(to, filepath.FromSlash(f.Name))
		if err := v.deps.FS.MkdirAll(filepath.Dir(target), 0o700); err != nil {
			return err
		}
		out, err := v.deps.FS.OpenFile(target, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		return errors.Join(v.codec.Decode(ctx, out, through(in), m.encoded(f), m.binding(f.Name)), out.Close())
	})
}
