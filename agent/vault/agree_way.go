package vault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/vigil-ml/vigil/internal/fault"
)

// Where the ranks agree. Where the control plane answers they do it there: their nodes need
// share nothing then. Where it does not they do it through files in the vault's
// directory, which their nodes share. They may not see alike whether it answers, so
// which of the two holds is itself written once, among the files of the round: by
// whoever comes to a decision with the control plane, and with that decision, or by
// whoever cannot reach it. docs/adr/0005-where-ranks-agree.md says why that is safe.
const (
	wayName  = "way.json"
	byPlane  = "control plane"
	byFiles  = "files"
	noneGood = ""
)

// errFiles says that somebody could not reach the control plane.
var errFiles = errors.New("it is agreed through files")

// way is where a round is decided.
type way struct {
	By           string `json:"by"`
	CheckpointID string `json:"checkpoint_id"` // with the control plane; empty: none is good
}

func (v *Vault) filesOf(runID string) *files {
	return &files{fsys: v.deps.FS, dir: filepath.Join(v.runDir(runID), resumeName)}
}

func (v *Vault) metBefore(runID string) bool {
	return exists(filepath.Join(v.runDir(runID), resumeName))
}

// agree takes the checkpoint that all ranks found good.
func (v *Vault) agree(ctx context.Context, t *taking) error {
	here := &meeting{taking: t, board: v.filesOf(t.req.RunID)}
	for {
		round, err := here.join(ctx)
		if err != nil {
			return fmt.Errorf("agree on a checkpoint: %w", err)
		}
		by, err := v.decide(ctx, t, here, round)
		if err == nil {
			v.agreed(t, by)
		}
		if !errors.Is(err, errSuperseded) {
			return err
		}
		t.order, t.passed = nil, passedOver{}
	}
}

// agreed says that it was agreed.
func (v *Vault) agreed(t *taking, by string) {
	v.agreements.WithLabelValues(by).Inc()
	id := "none"
	if t.taken != nil {
		id = t.taken.ID
	}
	v.deps.Log.Info("the ranks agreed on where to go on", "run", t.req.RunID, "attempt", t.req.Attempt, "rank", t.req.Rank, "checkpoint", id, "by", by)
}

// decide goes through a round of files, or takes what was decided with the control
// plane meanwhile.
func (v *Vault) decide(ctx context.Context, t *taking, here *meeting, round int) (by string, err error) {
	if v.deps.Meet != nil {
		err := v.decideThere(ctx, t, here, round)
		if !errors.Is(err, errAway) && !errors.Is(err, errFiles) {
			return byPlane, err
		}
		t.order, t.passed = nil, passedOver{}
		v.deps.Log.Warn("the ranks agree through the vault's directory", "run", t.req.RunID, "rank", t.req.Rank, "cause", err)
		holds, err := settle(ctx, here.board, round, way{By: byFiles})
		if err != nil {
			return "", err
		}
		if holds.By == byPlane {
			return byPlane, v.follow(ctx, t, holds)
		}
	}
	d, err := here.hold(ctx, round)
	if err != nil {
		return "", err
	}
	return byFiles, here.conclude(d)
}

// decideThere agrees with the help of the control plane, unless somebody cannot.
func (v *Vault) decideThere(ctx context.Context, t *taking, here *meeting, round int) error {
	there := &meeting{taking: t, board: newRemote(v.deps.Meet, t.req.RunID, v.config.AgreeAway)}
	there.interrupt = func() error {
		var w way
		switch {
		case here.board.newest() > round:
			return errSuperseded
		case here.board.read(round, wayName, &w) && w.By == byFiles:
			return errFiles
		}
		return nil
	}
	for {
		if err := there.interrupt(); err != nil {
			return err
		}
		thereRound, err := there.join(ctx)
		if err != nil {
			return fmt.Errorf("agree on a checkpoint: %w", err)
		}
		d, err := there.hold(ctx, thereRound)
		if errors.Is(err, errSuperseded) && there.interrupt() == nil {
			t.order, t.passed = nil, passedOver{}
			continue
		}
		if err != nil {
			return err
		}
		mine := way{By: byPlane, CheckpointID: noneGood}
		if d.index >= 0 {
			mine.CheckpointID = t.order[d.index].ID
		}
		holds, err := settle(ctx, here.board, round, mine)
		switch {
		case err != nil:
			return err
		case holds == mine:
			return there.conclude(d)
		case holds.By == byFiles:
			return errFiles
		}
		return v.follow(ctx, t, holds)
	}
}

// settle writes where a round is decided, and gives what holds: that, or what
// somebody wrote before.
func settle(ctx context.Context, b board, round int, mine way) (way, error) {
	err := b.post(ctx, round, wayName, mine)
	if err == nil {
		return mine, nil
	}
	var holds way
	if !errors.Is(err, os.ErrExist) || !b.read(round, wayName, &holds) {
		return way{}, fmt.Errorf("agree on a checkpoint: write where it is decided: %w", err)
	}
	return holds, nil
}

// follow takes what the others decided with the control plane, which this rank has
// found good there before.
func (v *Vault) follow(ctx context.Context, t *taking, holds way) (err error) {
	if t.list, err = v.listFor(t.req); err != nil {
		return err
	}
	t.choose(nil)
	if holds.CheckpointID == noneGood {
		return t.nothing()
	}
	i := slices.IndexFunc(t.order, func(c Checkpoint) bool { return c.ID == holds.CheckpointID })
	if i < 0 {
		return fault.New(fault.Unavailable, "agree on a checkpoint: the other ranks go on from %s, which is not in this node's vault", holds.CheckpointID)
	}
	dirs, err := t.provide(ctx, &t.order[i])
	if err != nil {
		return fmt.Errorf("agree on a checkpoint: the other ranks go on from %s: %w", holds.CheckpointID, err)
	}
	t.take(i, dirs)
	return nil
}
