package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/google/uuid"

	"github.com/vigil-ml/vigil/agent/vault/seal"
	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// replicatedName is the mark in a rank's directory that says that the second
// store has a copy. What is verified and has no mark waits to be copied: the
// queue is what lies on the disk, and survives what that survives.
const replicatedName = "replicated.json"

// longestWait bounds the time between two tries.
const longestWait = 5 * time.Minute

// Replica is the second store, which gets a copy of every verified checkpoint.
type Replica struct {
	// Kind is the kind of the store: "dir" or "s3"; empty: there is none.
	Kind string `yaml:"kind"`
	// Settings is the kind's own.
	Settings conf.Raw `yaml:"settings"`
}

// replicateAll copies what waits, and tries again what failed, less and less
// often, until ctx ends.
func (v *Vault) replicateAll(ctx context.Context) error {
	if v.deps.Replica == nil {
		<-ctx.Done()
		return nil
	}
	wait := v.config.RetryDelay
	for ctx.Err() == nil {
		waiting := v.unreplicated()
		v.waiting.WithLabelValues().Set(float64(len(waiting)))
		failed := false
		for _, k := range waiting {
			err := v.replicate(ctx, k)
			if fault.Is(err, fault.Corrupt) {
				err = v.unfit(k, err)
			}
			if err != nil && ctx.Err() == nil {
				failed = true
				v.copies.WithLabelValues("failed").Inc()
				v.deps.Log.Warn("copy checkpoint into the second store; it is tried again", "run", k.runID, "checkpoint", k.checkpointID,
					"rank", k.rank, "after", wait, "error", err)
				break // the next one would meet the same
			}
		}
		switch {
		case failed:
			if !life.Sleep(ctx, wait) {
				return nil
			}
			wait = min(2*wait, longestWait)
		case len(v.unreplicated()) > 0:
		default:
			v.waiting.WithLabelValues().Set(0)
			wait = v.config.RetryDelay
			look := time.NewTimer(idleWait)
			select {
			case <-ctx.Done():
			case <-v.verified:
			case <-look.C:
			}
			look.Stop()
		}
	}
	return nil
}

// unfit takes the mark from a rank that is damaged here: it is not copied, those
// behind it are, and nobody goes on from it until it is whole again.
func (v *Vault) unfit(k key, cause error) error {
	v.copies.WithLabelValues("damaged").Inc()
	v.deps.Log.Error("copy checkpoint into the second store: it is damaged here and is not copied", "run", k.runID,
		"checkpoint", k.checkpointID, "rank", k.rank, "error", cause)
	return v.deps.FS.RemoveAll(filepath.Join(v.rankDir(k), verifiedName))
}

// unreplicated gives the ranks that are verified and have no copy, the oldest
// checkpoint of each run first.
func (v *Vault) unreplicated() []key {
	var waiting []key
	marks, _ := filepath.Glob(filepath.Join(v.config.Dir, "*", "*", "rank-*", verifiedName))
	for _, mark := range marks {
		rankDir := filepath.Dir(mark)
		k := key{runID: filepath.Base(filepath.Dir(filepath.Dir(rankDir))), checkpointID: filepath.Base(filepath.Dir(rankDir))}
		rank, ok := parseRank(filepath.Base(rankDir))
		k.rank = rank
		if !ok || CheckRunID(k.runID) != nil || CheckCheckpointID(k.checkpointID) != nil || exists(filepath.Join(rankDir, replicatedName)) {
			continue
		}
		if _, digest, err := readManifest(rankDir); err == nil && wasVerified(rankDir, digest) { // else the mark does not count
			waiting = append(waiting, k)
		}
	}
	return waiting
}

func blobKey(k key, name string) string {
	return k.runID + "/" + k.checkpointID + "/" + rankName(k.rank) + "/" + name
}

// replicate copies one rank: the files, then the manifest, and at last the mark
// that it was verified, without which nobody takes the copy for one.
func (v *Vault) replicate(ctx context.Context, k key) error {
	rankDir := v.rankDir(k)
	m, digest, err := readManifest(rankDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil // it was removed meanwhile
	}
	if err != nil {
		return err
	}
	if m.KeyID != "" {
		if err := v.shareKeyring(ctx); err != nil {
			return err
		}
	}
	err = v.readFiles(rankDir, m, func(f File, in *os.File) error {
		checked := seal.Checked(in, m.encoded(f))
		return errors.Join(v.deps.Replica.Put(ctx, blobKey(k, filesName+"/"+f.Name), checked, f.StoredBytes), checked.Wrong())
	})
	if err != nil {
		return err
	}
	// Once more, as both may have been damaged meanwhile.
	if _, now, err := readManifest(rankDir); err != nil || now != digest || !wasVerified(rankDir, digest) {
		return fault.New(fault.Corrupt, "the manifest or its mark is not as it was")
	}
	for _, name := range []string{manifestName, verifiedName} {
		if err := v.putFile(ctx, blobKey(k, name), filepath.Join(rankDir, name)); err != nil {
			return missingIsCorrupt(err, "%s", name)
		}
	}
	if m.KeyID != "" { // another node may have put its own keyring there meanwhile
		if err := v.shareKeyring(ctx); err != nil {
			return err
		}
	}
	mark := fmt.Sprintf("{\"manifest_sha256\":%q,\"time\":%q}\n", digest, v.deps.Clock().UTC().Format(time.RFC3339Nano))
	if err := durable.WriteFile(v.deps.FS, filepath.Join(rankDir, replicatedName), []byte(mark), 0o600); err != nil {
		return fmt.Errorf("mark checkpoint as copied: %w", err)
	}
	v.copies.WithLabelValues("done").Inc()
	v.tellReplicated(ctx, k, m, digest)
	return nil
}

func (v *Vault) putFile(ctx context.Context, to, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return v.deps.Replica.Put(ctx, to, f, info.Size())
}

func (v *Vault) tellReplicated(ctx context.Context, k key, m *Manifest, digest string) {
	event := &commonv1.Event{
		EventId: uuid.Must(uuid.NewV7()).String(), Time: timestamppb.New(v.deps.Clock()), RunId: k.runID, Attempt: m.Attempt, Rank: k.rank,
		Body: &commonv1.Event_Checkpoint{Checkpoint: &commonv1.CheckpointProgress{
			CheckpointId: k.checkpointID, State: commonv1.CheckpointState_CHECKPOINT_STATE_REPLICATED, Step: m.Step,
			Health: m.health(), SizeBytes: m.SizeBytes, Path: v.rankDir(k), ManifestSha256: digest, Metric: m.Metric,
		}},
	}
	if err := v.deps.Events(ctx, k.runID, event); err != nil {
		v.deps.Log.Warn("write checkpoint event", "run", k.runID, "checkpoint", k.checkpointID, "error", err)
	}
}

func (v *Vault) getSmall(ctx context.Context, name string) ([]byte, error) {
	r, err := v.deps.Replica.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	data, err := io.ReadAll(io.LimitReader(r, maxManifestBytes+1))
	if err == nil && len(data) > maxManifestBytes {
		err = fault.New(fault.Corrupt, "%s has more than %d bytes", name, maxManifestBytes)
	}
	return data, err
}

// remoteRanks gives the ranks of a run that the second store has whole, by
// checkpoint.
func (v *Vault) remoteRanks(ctx context.Context, runID string) (map[string][]key, error) {
	objects, err := v.deps.Replica.List(ctx, runID+"/")
	if err != nil {
		return nil, err
	}
	ranks := map[string][]key{}
	for _, o := range objects {
		parts := strings.Split(o.Key, "/")
		if len(parts) != 4 || parts[3] != verifiedName || CheckCheckpointID(parts[1]) != nil {
			continue
		}
		if rank, ok := parseRank(parts[2]); ok {
			ranks[parts[1]] = append(ranks[parts[1]], key{runID, parts[1], rank})
		}
	}
	return ranks, nil
}

// fetchMissing gets from the second store the checkpoints that it has and this
// vault has not, the newest first, until one is whole and good here. What cannot
// be got is logged: what is here is gone on from.
func (v *Vault) fetchMissing(ctx context.Context, runID string) {
	if v.deps.Replica == nil {
		return
	}
	remote, err := v.remoteRanks(ctx, runID)
	if err != nil {
		v.deps.Log.Warn("look for checkpoints in the second store", "run", runID, "error", err)
		return
	}
	var order []Checkpoint
	for id, ranks := range remote {
		if c := v.surveyRemote(ctx, id, ranks); c.missing() == "" && c.Health != poisoned {
			order = append(order, c)
		}
	}
	sortNewest(order)
	local, err := v.List(runID)
	if err != nil {
		return
	}
	for _, c := range order {
		if len(local) > 0 && local[0].Problem == "" && newer(local[0], c) <= 0 {
			return // what is here is as new
		}
		if err := v.fetch(ctx, runID, c); err != nil {
			v.deps.Log.Warn("get checkpoint from the second store", "run", runID, "checkpoint", c.ID, "error", err)
			continue
		}
		v.deps.Log.Info("checkpoint is got from the second store", "run", runID, "checkpoint", c.ID, "step", c.Step)
		return
	}
}

// surveyRemote reads the manifests of a checkpoint in the second store.
func (v *Vault) surveyRemote(ctx context.Context, id string, ranks []key) Checkpoint {
	c := Checkpoint{ID: id, Ranks: map[uint32]*Manifest{}, Health: healthy}
	for _, k := range ranks {
		data, err := v.getSmall(ctx, blobKey(k, manifestName))
		if err != nil {
			continue
		}
		if m, err := DecodeManifest(data); err == nil && m.RunID == k.runID && m.CheckpointID == id && m.Rank == k.rank {
			c.add(m)
		}
	}
	return c
}

// fetch gets every rank of a checkpoint that is not here.
func (v *Vault) fetch(ctx context.Context, runID string, c Checkpoint) error {
	for rank := range c.Ranks {
		k := key{runID, c.ID, rank}
		if exists(v.rankDir(k)) {
			continue
		}
		if err := v.fetchRank(ctx, k); err != nil {
			return fmt.Errorf("rank %d: %w", rank, err)
		}
	}
	return nil
}

// fetchRank gets one rank's part as sealing would put it here, and checks every
// byte before it is in place.
func (v *Vault) fetchRank(ctx context.Context, k key) error {
	partial, fsys := v.partialDir(k), v.deps.FS
	if err := fsys.RemoveAll(partial); err != nil {
		return err
	}
	data, err := v.getSmall(ctx, blobKey(k, manifestName))
	if err != nil {
		return err
	}
	m, err := DecodeManifest(data)
	if err != nil {
		return err
	}
	mark, err := v.getSmall(ctx, blobKey(k, verifiedName))
	if err != nil {
		return err
	}
	for _, f := range m.Files {
		if err := v.getFile(ctx, blobKey(k, filesName+"/"+f.Name), filepath.Join(partial, filesName, filepath.FromSlash(f.Name))); err != nil {
			return err
		}
	}
	if err := v.checkFiles(ctx, partial, m); err != nil {
		return errors.Join(err, fsys.RemoveAll(partial))
	}
	there := fmt.Sprintf("{\"manifest_sha256\":%q,\"time\":%q}\n", digestOf(data), v.deps.Clock().UTC().Format(time.RFC3339Nano))
	for name, content := range map[string][]byte{manifestName: data, verifiedName: mark, replicatedName: []byte(there)} {
		if err := durable.WriteFile(fsys, filepath.Join(partial, name), content, 0o600); err != nil {
			return err
		}
	}
	if err := fsys.MkdirAll(filepath.Dir(v.rankDir(k)), 0o700); err != nil {
		return err
	}
	if err := fsys.Rename(partial, v.rankDir(k)); err != nil {
		return err
	}
	return v.publish(k)
}

func (v *Vault) getFile(ctx context.Context, from, to string) error {
	in, err := v.deps.Replica.Get(ctx, from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	if err := v.deps.FS.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	out, err := v.deps.FS.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close(), v.deps.FS.SyncDir(filepath.Dir(to)))
}
