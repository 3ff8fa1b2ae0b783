package vault

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// finishWait bounds how long Saved waits for what was staged to be removed: the
// checkpoint is in the vault, whether or not it is.
const finishWait = time.Second

// Checkpoint is what a directory of the vault says of itself.
type Checkpoint struct {
	ID      string
	Step    int64
	Created time.Time // when the last rank committed
	Attempt uint32    // the launch that saved it
	// Health is the worst of all ranks and judgements; unspecified when nobody
	// counted in one of them.
	Health commonv1.CheckpointHealth
	// HealthReason says why it is suspect or poisoned, for a person; else empty.
	HealthReason string
	// Pinned tells that a person wants it kept.
	Pinned bool
	Ranks  map[uint32]*Manifest // those that can be read
	// Problem says why nobody should resume from it, for a person; empty when
	// every rank is there and was read back.
	Problem string
}

// List gives a run's checkpoints, the newest first: by step, then by creation.
// One without a readable manifest comes before the others.
func (v *Vault) List(runID string) ([]Checkpoint, error) {
	if err := CheckRunID(runID); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(v.runDir(runID))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list checkpoints: %w", err)
	}
	var list []Checkpoint
	judged := readJudgements(v.runDir(runID))
	for _, entry := range entries {
		if entry.IsDir() && CheckCheckpointID(entry.Name()) == nil {
			c := survey(v.runDir(runID), entry.Name())
			if len(c.Ranks) == 0 && !exists(filepath.Join(v.runDir(runID), c.ID)) {
				continue // it was removed meanwhile
			}
			c.judge(judged)
			list = append(list, c)
		}
	}
	slices.SortFunc(list, newer)
	return list, nil
}

func sortNewest(list []Checkpoint) { slices.SortFunc(list, newer) }

// newer orders checkpoints, the newest first.
func newer(a, b Checkpoint) int {
	if unread := cmp.Compare(min(len(a.Ranks), 1), min(len(b.Ranks), 1)); unread != 0 {
		return unread
	}
	return cmp.Or(cmp.Compare(b.Step, a.Step), b.Created.Compare(a.Created), cmp.Compare(b.ID, a.ID))
}

// survey reads a checkpoint's manifests and marks, not its files and not what
// was judged of it.
func survey(runDir, id string) Checkpoint {
	c := Checkpoint{ID: id, Ranks: map[uint32]*Manifest{}, Health: healthy}
	dir := filepath.Join(runDir, id)
	entries, err := os.ReadDir(dir)
	if err != nil {
		c.Problem = "its directory cannot be read: " + err.Error()
	}
	unverified := ""
	c.Pinned = exists(filepath.Join(dir, pinnedName))
	for _, entry := range entries {
		rank, ok := parseRank(entry.Name())
		if !ok {
			continue
		}
		rankDir := filepath.Join(dir, entry.Name())
		m, digest, err := readManifest(rankDir)
		if err == nil && (m.CheckpointID != id || m.RunID != filepath.Base(runDir) || m.Rank != rank) {
			err = fault.New(fault.Corrupt, "its manifest is that of rank %d of checkpoint %s of run %s", m.Rank, m.CheckpointID, m.RunID)
		}
		if err != nil {
			c.Problem = fmt.Sprintf("rank %d: %v", rank, err)
			continue
		}
		c.add(m)
		if !wasVerified(rankDir, digest) {
			unverified = fmt.Sprintf("rank %d was not read back and verified", rank)
		}
	}
	c.Problem = cmp.Or(c.Problem, c.missing(), unverified)
	return c
}

func (c *Checkpoint) add(m *Manifest) {
	c.Ranks[m.Rank] = m
	c.Step = max(c.Step, m.Step)
	if m.Created.After(c.Created) {
		c.Created = m.Created
	}
	c.Attempt = max(c.Attempt, m.Attempt)
	c.Health = worse(c.Health, m.health())
	if why := m.poison(); why != "" && (c.HealthReason == "" || m.Rank == 0) {
		c.HealthReason = why
	}
}

// missing says which rank is not there or does not agree with the others.
func (c *Checkpoint) missing() string {
	var first *Manifest
	for _, m := range c.Ranks {
		if first == nil || m.Rank < first.Rank {
			first = m
		}
	}
	if first == nil {
		return "no rank's manifest is there"
	}
	for _, m := range c.Ranks {
		if m.WorldSize != first.WorldSize || m.Step != first.Step {
			return fmt.Sprintf("rank %d saved step %d of %d ranks, rank %d step %d of %d ranks",
				first.Rank, first.Step, first.WorldSize, m.Rank, m.Step, m.WorldSize)
		}
	}
	for rank := range first.WorldSize {
		if c.Ranks[rank] == nil {
			return fmt.Sprintf("rank %d of %d is missing", rank, first.WorldSize)
		}
	}
	return ""
}

// Saved tells whether a checkpoint's files are in the vault and read back, for
// every rank that committed it here.
func (v *Vault) Saved(runID, checkpointID string) bool {
	if CheckRunID(runID) != nil || CheckCheckpointID(checkpointID) != nil {
		return false
	}
	for {
		onItsWay, done, changed := v.onItsWay(runID, checkpointID)
		if !onItsWay {
			break
		}
		if !done {
			return false
		}
		select {
		case <-changed: // it has been told, and what was staged is being removed
			continue
		case <-time.After(finishWait):
		}
		break
	}
	c := survey(v.runDir(runID), checkpointID)
	return len(c.Ranks) > 0 && c.Problem == ""
}

// readLatest gives the checkpoint that a run's file latest names.
func readLatest(runDir string) (string, error) {
	data, err := readBounded(filepath.Join(runDir, latestName), 256)
	if err != nil {
		return "", err
	}
	id := strings.TrimSuffix(string(data), "\n")
	return id, CheckCheckpointID(id)
}

// onItsWay tells whether a checkpoint is staged here, whether all ranks of it that
// are have been verified, and what is closed when that changes.
func (v *Vault) onItsWay(runID, checkpointID string) (staged, verified bool, changed <-chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	verified = true
	for k, s := range v.staged {
		if k.runID == runID && k.checkpointID == checkpointID {
			staged, verified = true, verified && s.verified
		}
	}
	return staged, verified, v.changed
}
