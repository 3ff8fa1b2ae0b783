package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

const maxPassedOver = 100

// Checkpoint is what a directory of the vault says of itself.
type Checkpoint struct {
	ID      string
	Step    int64
	Created time.Time // when the last rank committed
	// Health is the worst of all ranks; unspecified when one did not count.
	Health commonv1.CheckpointHealth
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
	for _, entry := range entries {
		if entry.IsDir() && CheckCheckpointID(entry.Name()) == nil {
			list = append(list, survey(v.runDir(runID), entry.Name()))
		}
	}
	slices.SortFunc(list, newer)
	return list, nil
}

// newer orders checkpoints, the newest first.
func newer(a, b Checkpoint) int {
	if unread := cmp.Compare(min(len(a.Ranks), 1), min(len(b.Ranks), 1)); unread != 0 {
		return unread
	}
	return cmp.Or(cmp.Compare(b.Step, a.Step), b.Created.Compare(a.Created), cmp.Compare(b.ID, a.ID))
}

// survey reads a checkpoint's manifests and marks, not its files.
func survey(runDir, id string) Checkpoint {
	c := Checkpoint{ID: id, Ranks: map[uint32]*Manifest{}, Health: commonv1.CheckpointHealth_CHECKPOINT_HEALTH_HEALTHY}
	dir := filepath.Join(runDir, id)
	entries, err := os.ReadDir(dir)
	if err != nil {
		c.Problem = "its directory cannot be read: " + err.Error()
	}
	unverified := ""
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
	poisoned := commonv1.CheckpointHealth_CHECKPOINT_HEALTH_POISONED
	switch health := healthOf(m.NonfiniteParameters); {
	case health == poisoned:
		c.Health = poisoned
	case health != commonv1.CheckpointHealth_CHECKPOINT_HEALTH_HEALTHY && c.Health != poisoned:
		c.Health = health
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

// Resolve names the checkpoint that a rank goes on from: the newest that all
// ranks of the given world size saved, that was read back, and that is healthy;
// one whose health nobody knows is taken only where there is no healthy one.
// This rank's files are read once more before they are named. Committed
// checkpoints that are still being sealed are waited for. Newer ones that were
// passed over are given with the reason. A run without a fit checkpoint gives
// nil and no error.
func (v *Vault) Resolve(ctx context.Context, runID string, rank, worldSize uint32) (*commonv1.CheckpointRef, []*trainerv1.PassedOver, error) {
	if rank >= worldSize {
		return nil, nil, fault.New(fault.Invalid, "resolve resume: rank is %d of %d ranks", rank, worldSize)
	}
	if err := CheckRunID(runID); err != nil {
		return nil, nil, err
	}
	sealing := v.waitSealed(ctx, runID)
	list, err := v.List(runID)
	if err != nil {
		return nil, nil, err
	}
	var passed passedOver
	for _, id := range sealing {
		passed.add(id, "it is still being sealed")
	}
	var fit, unknown []Checkpoint
	for _, c := range list {
		switch reason := c.unfit(worldSize); {
		case slices.Contains(sealing, c.ID):
		case reason != "":
			passed.at(c, reason)
		case c.Health == commonv1.CheckpointHealth_CHECKPOINT_HEALTH_HEALTHY:
			fit = append(fit, c)
		default:
			unknown = append(unknown, c)
		}
	}
	for i, c := range slices.Concat(fit, unknown) {
		files, err := v.provide(ctx, key{runID, c.ID, rank}, c.Ranks[rank])
		if err != nil {
			if ctx.Err() != nil {
				return nil, nil, fmt.Errorf("resolve resume: %w", err)
			}
			passed.at(c, err.Error())
			continue
		}
		if i < len(fit) {
			for _, u := range unknown {
				passed.at(u, "its health is unknown (nobody counted non-finite parameters) and a healthy one exists")
			}
		}
		ref := c.Ranks[rank].ref(files)
		ref.Health = c.Health // the worst of all ranks, not this rank's own
		return ref, passed.newerThan(&c), nil
	}
	return nil, passed.newerThan(nil), nil
}

// unfit says why a checkpoint is not to be resumed from, as far as its
// manifests tell.
func (c *Checkpoint) unfit(worldSize uint32) string {
	if c.Problem != "" {
		return c.Problem
	}
	if got := uint32(len(c.Ranks)); got != worldSize {
		return fmt.Sprintf("it was saved by %d ranks, the run now has %d", got, worldSize)
	}
	if c.Health == commonv1.CheckpointHealth_CHECKPOINT_HEALTH_POISONED {
		for _, rank := range slices.Sorted(maps.Keys(c.Ranks)) {
			if n := c.Ranks[rank].NonfiniteParameters; n != nil && *n > 0 {
				return fmt.Sprintf("rank %d holds %d non-finite parameters", rank, *n)
			}
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
	v.mu.Lock()
	for k := range v.staged {
		if k.runID == runID && k.checkpointID == checkpointID {
			v.mu.Unlock()
			return false
		}
	}
	v.mu.Unlock()
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

// passedOver gathers checkpoints with the reasons against them.
type passedOver struct {
	list  []*trainerv1.PassedOver
	about []*Checkpoint // nil: not in the vault yet
}

func (p *passedOver) add(id, reason string) {
	p.list = append(p.list, &trainerv1.PassedOver{CheckpointId: id, Reason: reason})
	p.about = append(p.about, nil)
}

func (p *passedOver) at(c Checkpoint, reason string) {
	p.add(c.ID, reason)
	p.about[len(p.about)-1] = &c
}

// newerThan gives those before the chosen one, newest first; all without one.
func (p *passedOver) newerThan(chosen *Checkpoint) []*trainerv1.PassedOver {
	order := make([]int, 0, len(p.list))
	for i, c := range p.about {
		if c == nil || chosen == nil || newer(*c, *chosen) < 0 {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch ca, cb := p.about[a], p.about[b]; {
		case ca == nil && cb == nil:
			return 0
		case ca == nil:
			return -1
		case cb == nil:
			return 1
		default:
			return newer(*ca, *cb)
		}
	})
	var out []*trainerv1.PassedOver
	for _, i := range order[:min(len(order), maxPassedOver)] {
		out = append(out, p.list[i])
	}
	return out
}
