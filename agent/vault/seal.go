package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"

	"github.com/vigil-ml/vigil/agent/vault/finite"
	"github.com/vigil-ml/vigil/agent/vault/seal"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/telemetry"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

func (v *Vault) runDir(runID string) string { return filepath.Join(v.config.Dir, runID) }

func (v *Vault) rankDir(k key) string {
	return filepath.Join(v.runDir(k.runID), k.checkpointID, rankName(k.rank))
}

func (v *Vault) partialDir(k key) string {
	return filepath.Join(v.runDir(k.runID), fmt.Sprintf("%s.partial-%d", k.checkpointID, k.rank))
}

// sealAndVerify makes one staging durable, reads it back, and tells both.
func (v *Vault) sealAndVerify(ctx context.Context, s *staging) error {
	sealCtx, end := v.span(ctx, s, "vigil.seal")
	m, digest, err := v.seal(sealCtx, s)
	end(err)
	if err != nil {
		return err
	}
	metric.ObserveTraced(v.seconds.WithLabelValues("durable"), v.deps.Clock().Sub(s.Committed).Seconds(), s.Traceparent)
	v.tell(sealCtx, s, commonv1.CheckpointState_CHECKPOINT_STATE_DURABLE, v.where(s, m, digest))

	verifyCtx, end := v.span(ctx, s, "vigil.verify")
	err = v.verify(verifyCtx, s.key(), m, digest)
	end(err)
	if err != nil {
		return err
	}
	metric.ObserveTraced(v.seconds.WithLabelValues("verified"), v.deps.Clock().Sub(s.Committed).Seconds(), s.Traceparent)
	if err := v.pointLatest(m); err != nil {
		// The checkpoint is good without it, and Resolve does not read it.
		v.deps.Log.Warn("point latest at a checkpoint", "run", s.RunID, "checkpoint", s.CheckpointID, "error", err)
	}
	v.mu.Lock()
	s.verified = true
	v.mu.Unlock()
	v.tell(verifyCtx, s, commonv1.CheckpointState_CHECKPOINT_STATE_VERIFIED, v.where(s, m, digest))
	return nil
}

// span starts a span of the trace that asked for the checkpoint; what nobody
// traces has none.
func (v *Vault) span(ctx context.Context, s *staging, name string) (context.Context, func(error)) {
	if s.Traceparent == "" {
		return ctx, func(error) {}
	}
	ctx, span := v.deps.Tracer.Start(telemetry.WithTraceparent(ctx, s.Traceparent), name)
	return ctx, func(err error) {
		if err != nil {
			span.RecordError(err)
		}
		span.End()
	}
}

// seal puts a rank's files and manifest into the vault. They appear under their
// final name whole, or not at all.
func (v *Vault) seal(ctx context.Context, s *staging) (*Manifest, string, error) {
	k := s.key()
	final, partial := v.rankDir(k), v.partialDir(k)
	fsys := v.deps.FS
	if m, digest, err := readManifest(final); err == nil {
		// An earlier agent came this far and died; verify says whether it is good.
		return m, digest, v.publish(k)
	}
	if _, err := os.Lstat(final); err == nil {
		// Damaged, and what was staged is still here: it is sealed anew.
		if err := v.withdraw(k); err != nil {
			return nil, "", fmt.Errorf("seal checkpoint: %w", err)
		}
	}
	if err := fsys.RemoveAll(partial); err != nil {
		return nil, "", fmt.Errorf("seal checkpoint: %w", err)
	}
	m, err := v.encodeFiles(ctx, s, filepath.Join(partial, filesName))
	if err != nil {
		_ = fsys.RemoveAll(partial) // the room may be what was lacking; else the next try removes it
		return nil, "", fmt.Errorf("seal checkpoint: %w", err)
	}
	data, err := m.encode()
	if err != nil {
		return nil, "", err
	}
	if err := durable.WriteFile(fsys, filepath.Join(partial, manifestName), data, 0o600); err != nil {
		return nil, "", fmt.Errorf("seal checkpoint: %w", err)
	}
	if err := fsys.MkdirAll(filepath.Dir(final), 0o700); err != nil {
		return nil, "", fmt.Errorf("seal checkpoint: %w", err)
	}
	if err := fsys.Rename(partial, final); err != nil {
		return nil, "", fmt.Errorf("seal checkpoint: %w", err)
	}
	return m, digestOf(data), v.publish(k)
}

// publish puts the names that lead to a rank's files on stable storage.
func (v *Vault) publish(k key) error {
	for _, dir := range []string{filepath.Dir(v.rankDir(k)), v.runDir(k.runID), v.config.Dir} {
		if err := v.deps.FS.SyncDir(dir); err != nil {
			return fmt.Errorf("sync directory %s: %w", dir, err)
		}
	}
	return nil
}

// pointLatest names the checkpoint in the run's file latest, unless a rank is
// missing or not verified yet, it is poisoned or suspect, or it is older than
// what stands there.
func (v *Vault) pointLatest(m *Manifest) error {
	v.pointing.Lock()
	defer v.pointing.Unlock()
	runDir := v.runDir(m.RunID)
	c := survey(runDir, m.CheckpointID)
	c.judge(readJudgements(runDir))
	if c.Problem != "" || c.Health == poisoned || c.Health == suspect {
		return nil
	}
	if was, err := readLatest(runDir); err == nil && was != c.ID {
		if old := survey(runDir, was); old.Problem == "" && newer(old, c) < 0 {
			return nil
		}
	}
	// Ranks on other nodes may do the same now: each has a file of its own
	// until the rename.
	beside := filepath.Join(runDir, "."+latestName+"-"+rankName(m.Rank))
	if err := durable.WriteFile(v.deps.FS, beside, []byte(m.CheckpointID+"\n"), 0o600); err != nil {
		return fmt.Errorf("point latest at %s: %w", m.CheckpointID, err)
	}
	if err := v.deps.FS.Rename(beside, filepath.Join(runDir, latestName)); err != nil {
		return fmt.Errorf("point latest at %s: %w", m.CheckpointID, err)
	}
	if err := v.deps.FS.SyncDir(runDir); err != nil {
		return fmt.Errorf("point latest at %s: %w", m.CheckpointID, err)
	}
	return nil
}

// encodeFiles puts what was staged into its stored form, syncs it and gives its
// manifest.
func (v *Vault) encodeFiles(ctx context.Context, s *staging, to string) (*Manifest, error) {
	staged, size, err := s.list()
	if err != nil {
		return nil, err
	}
	if s.Owner != nil && size > s.SizeBytes {
		return nil, fault.New(fault.Invalid, "the checkpoint had %d bytes when it was committed, and has %d now", s.SizeBytes, size)
	}
	root, err := os.OpenRoot(s.filesDir())
	if err != nil {
		return nil, fmt.Errorf("open staging: %w", err)
	}
	defer func() { _ = root.Close() }()
	dirs := map[string]bool{".": true}
	if err := v.deps.FS.MkdirAll(to, 0o700); err != nil {
		return nil, err
	}
	m, codec := s.manifest(), v.codec.Snapshot() // one key for all files
	if codec.Keys != nil {
		m.KeyID = codec.Keys.ID()
	}
	for _, file := range staged {
		for dir := path.Dir(file.name); !dirs[dir]; dir = path.Dir(dir) {
			dirs[dir] = true
		}
		target := filepath.Join(to, filepath.FromSlash(file.name))
		if err := v.deps.FS.MkdirAll(filepath.Dir(target), 0o700); err != nil {
			return nil, err
		}
		f, look, err := v.encodeFile(ctx, codec, root, file, target, m.binding(file.name))
		if err != nil {
			return nil, fmt.Errorf("seal file %q: %w", file.name, err)
		}
		m.scanned(file.name, look)
		m.Files = append(m.Files, f)
		m.SizeBytes += f.SizeBytes
		m.StoredBytes += f.StoredBytes
	}
	for dir := range dirs {
		if err := v.deps.FS.SyncDir(filepath.Join(to, filepath.FromSlash(dir))); err != nil {
			return nil, err
		}
	}
	m.Health = healthName(m.health())
	v.bytes.WithLabelValues().Add(float64(m.SizeBytes))
	return m, nil
}

// encodeFile stores one file, and looks at what goes by.
func (v *Vault) encodeFile(ctx context.Context, codec seal.Codec, root *os.Root, file stagedFile, target, binding string) (_ File, look *finite.Scanner, err error) {
	in, err := openStaged(root, file)
	if err != nil {
		return File{}, nil, err
	}
	defer func() { _ = in.Close() }()
	look = finite.New(in, file.info.Size())
	out, err := v.deps.FS.OpenFile(target, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return File{}, nil, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	from := io.Reader(io.TeeReader(in, look))
	if file.foreign { // it may grow for ever
		from = io.LimitReader(from, file.info.Size()+1)
	}
	e, err := codec.Encode(ctx, writing(out), from, binding)
	if err == nil && file.foreign && e.SizeBytes > file.info.Size() {
		err = replaced(file.name)
	}
	if err != nil {
		return File{}, nil, err
	}
	if err := out.Sync(); err != nil {
		return File{}, nil, err
	}
	return File{Name: file.name, SizeBytes: e.SizeBytes, StoredBytes: e.StoredBytes, BLAKE3: e.BLAKE3, Compression: e.Compression}, look, nil
}

// manifest is the staging's manifest but for the files.
func (s *staging) manifest() *Manifest {
	return &Manifest{
		Format: manifestFormat, Version: manifestVersion,
		RunID: s.RunID, CheckpointID: s.CheckpointID, Attempt: s.Attempt, Rank: s.Rank,
		WorldSize: s.metadata.WorldSize, Step: s.metadata.Step, DataPosition: s.metadata.DataPosition,
		ContentFormat: s.metadata.Format, NonfiniteParameters: cloneCount(s.metadata.NonfiniteParameters),
		Metric: s.metadata.Metric, Exact: s.metadata.Exact, Reason: reasonName(s.Reason),
		Parent: s.Parent, Owner: s.Owner, Created: s.Committed,
	}
}
