package vault

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

// ResolveRequest asks where a rank goes on.
type ResolveRequest struct {
	RunID     string
	Attempt   uint32
	Rank      uint32
	WorldSize uint32 // ranks of the new attempt
	// Mode is which checkpoint is wanted; not said is the newest.
	Mode commonv1.RecoveryMode
	// CanReshard tells that the trainer can go on from another number of ranks.
	CanReshard bool
	// Except is checkpoints that are taken only where there is nothing else: what
	// the attempt before went on from led nowhere.
	Except []string
	// User is whose process asks; nil: the agent's own user's. Only this user's
	// checkpoints are gone on from.
	User *int
	// Process names the process that asks, the same when it asks again. The
	// processes of all ranks then agree on one checkpoint. Empty: the caller asks
	// for itself alone.
	Process string
}

func (r ResolveRequest) check() error {
	if r.Rank >= r.WorldSize {
		return fault.New(fault.Invalid, "resolve resume: rank is %d of %d ranks", r.Rank, r.WorldSize)
	}
	if _, ok := commonv1.RecoveryMode_name[int32(r.Mode)]; !ok {
		return fault.New(fault.Invalid, "resolve resume: mode is %d; want EXACT, LATEST or BEST", r.Mode)
	}
	return CheckRunID(r.RunID)
}

// Resolve names the checkpoint that a rank goes on from: of those that all
// ranks saved and that were read back, the newest healthy one, or the one with
// the best metric where that is asked for. One whose health nobody knows is
// taken only where there is no healthy one, and a suspect one only where there
// is nothing else; a poisoned one never. This rank's files are read once more
// before they are named, and where processes of several ranks ask, all of them
// get the same checkpoint, one whose files each found good. Committed
// checkpoints that are still being sealed are waited for. Those that come before
// the chosen one and were passed over are given with the reason. A run without a
// fit checkpoint gives nil and no error.
//
// It fails with [fault.Precondition] when the checkpoint to go on from was saved
// by another number of ranks and the trainer cannot reshard, or when an exact
// one is asked for and there are only others; and with [fault.Unavailable] when
// not all ranks come to agree in time.
func (v *Vault) Resolve(ctx context.Context, req ResolveRequest) (*commonv1.CheckpointRef, []*trainerv1.PassedOver, error) {
	if err := req.check(); err != nil {
		return nil, nil, err
	}
	v.passAll(ctx) // what the last attempt proved of its checkpoint
	sealing := v.waitSealed(ctx, req.RunID)
	v.fetchMissing(ctx, req.RunID)
	list, err := v.listFor(req)
	if err != nil {
		return nil, nil, err
	}
	t := &taking{vault: v, req: req, list: list}
	// Nodes with a second store need not share a directory: one that sees nothing
	// may be the only one.
	apart := v.deps.Replica != nil && v.deps.Meet != nil
	if req.Process != "" && req.WorldSize > 1 && (len(list) > 0 || len(sealing) > 0 || apart || v.metBefore(req.RunID)) {
		err = v.agree(ctx, t)
	} else {
		t.choose(sealing)
		err = t.alone(ctx)
	}
	if ctx.Err() != nil {
		return nil, nil, fmt.Errorf("resolve resume: %w", ctx.Err())
	}
	if err != nil || t.taken == nil {
		return nil, t.passed.newerThan(nil), err
	}
	v.tookUp(req, t.taken)
	ref := t.ref()
	return ref, t.passed.newerThan(t.taken), nil
}

// taking is one search for a checkpoint to go on from.
type taking struct {
	vault  *Vault
	req    ResolveRequest
	list   []Checkpoint
	order  []Checkpoint // that may be taken, the best first
	passed passedOver
	taken  *Checkpoint
	dirs   map[uint32]string // with the files, by the rank that saved them
}

// choose puts those that may be taken, as far as manifests and judgements tell,
// into their order.
func (t *taking) choose(sealing []string) {
	for _, id := range sealing {
		t.passed.add(id, "it is still being sealed")
	}
	inexact := 0
	for _, c := range t.list {
		switch {
		case slices.Contains(sealing, c.ID):
		case c.Problem != "":
			t.passed.at(c, c.Problem)
		case c.Health == poisoned:
			t.passed.at(c, c.HealthReason)
		case t.req.Mode == commonv1.RecoveryMode_RECOVERY_MODE_EXACT && !c.exact():
			t.passed.at(c, "its trainer does not say that training goes on exactly from it, and recovery mode is exact")
			inexact++
		default:
			t.order = append(t.order, c)
		}
	}
	slices.SortStableFunc(t.order, func(a, b Checkpoint) int {
		return cmp.Or(cmp.Compare(t.excepted(a), t.excepted(b)), cmp.Compare(preference(a), preference(b)), t.better(a, b))
	})
}

// excepted gives 1 for a checkpoint that is not to be taken while there is
// another.
func (t *taking) excepted(c Checkpoint) int {
	if slices.Contains(t.req.Except, c.ID) {
		return 1
	}
	return 0
}

// preference orders healths: healthy, unknown, suspect.
func preference(c Checkpoint) int {
	switch c.Health {
	case healthy:
		return 0
	case suspect:
		return 2
	}
	return 1
}

// better orders by metric where the best is wanted; those without one come last.
func (t *taking) better(a, b Checkpoint) int {
	if t.req.Mode != commonv1.RecoveryMode_RECOVERY_MODE_BEST {
		return 0
	}
	switch ma, mb := a.metric(), b.metric(); {
	case ma == nil && mb == nil:
		return 0
	case ma == nil:
		return 1
	case mb == nil:
		return -1
	case t.vault.config.Retain.Greater:
		return cmp.Compare(*mb, *ma)
	default:
		return cmp.Compare(*ma, *mb)
	}
}

// alone takes the first whose files are good.
func (t *taking) alone(ctx context.Context) error {
	for i := range t.order {
		if err := t.sized(&t.order[i]); err != nil {
			return err
		}
		dirs, err := t.provide(ctx, &t.order[i])
		if err == nil {
			t.take(i, dirs)
			return nil
		}
		if ctx.Err() != nil {
			return err
		}
		t.passed.at(t.order[i], err.Error())
	}
	return t.nothing()
}

// take ends the search.
func (t *taking) take(i int, dirs map[uint32]string) {
	t.taken, t.dirs = &t.order[i], dirs
	for _, c := range t.order[i+1:] {
		switch {
		case preference(c) == preference(*t.taken):
		case c.Health == suspect:
			t.passed.at(c, "it is suspect, and one that is not exists: "+c.HealthReason)
		default:
			t.passed.at(c, "its health is unknown (nobody counted non-finite parameters) and a healthy one exists")
		}
	}
}

// sized refuses a checkpoint of another number of ranks: to begin from an older
// one, or from nothing, would throw away what was trained.
func (t *taking) sized(c *Checkpoint) error {
	if saved := uint32(len(c.Ranks)); saved != t.req.WorldSize && !t.req.CanReshard {
		return fault.WithHint(
			fault.New(fault.Precondition, "checkpoint %s of step %d was saved by %d ranks; the run now has %d, and its trainer does not say that it can reshard",
				c.ID, c.Step, saved, t.req.WorldSize),
			fmt.Sprintf("start it with %d ranks, or have the trainer set can_reshard when it resumes", saved))
	}
	return nil
}

// nothing tells whether a run may begin from nothing.
func (t *taking) nothing() error {
	if t.req.Mode != commonv1.RecoveryMode_RECOVERY_MODE_EXACT {
		return nil
	}
	for _, c := range t.list {
		if c.Problem == "" && c.Health != poisoned && !c.exact() {
			return fault.WithHint(
				fault.New(fault.Precondition, "no checkpoint of run %s lets training go on exactly, and recovery mode is exact", t.req.RunID),
				"use recovery mode latest to go on from checkpoint "+c.ID)
		}
	}
	return nil
}

// provide gives the directories with the files that this rank goes on from,
// every byte checked: its own, and those of all ranks where the trainer
// reshards.
func (t *taking) provide(ctx context.Context, c *Checkpoint) (map[uint32]string, error) {
	dirs := map[uint32]string{}
	t.vault.dropRestored(t.req.RunID, t.req.Rank)
	for rank, m := range c.Ranks {
		if !t.req.CanReshard && rank != t.req.Rank {
			continue
		}
		dir, err := t.vault.provide(ctx, key{t.req.RunID, c.ID, rank}, m, t.req)
		if err != nil {
			return nil, err
		}
		dirs[rank] = dir
	}
	return dirs, nil
}

// ref is what the trainer is told of the checkpoint that was taken.
func (t *taking) ref() *commonv1.CheckpointRef {
	c := t.taken
	rank := min(t.req.Rank, uint32(len(c.Ranks)-1)) // another number of ranks: any of them
	ref := c.Ranks[rank].ref(t.dirs[rank])
	ref.Health, ref.HealthReason = c.Health, c.HealthReason // of all ranks, not this one's own
	if t.req.CanReshard {
		for rank := range uint32(len(c.Ranks)) {
			ref.RankDirectories = append(ref.RankDirectories, t.dirs[rank])
		}
	}
	return ref
}

// exact tells whether every rank's trainer says that training goes on exactly.
func (c *Checkpoint) exact() bool {
	for _, m := range c.Ranks {
		if !m.Exact {
			return false
		}
	}
	return true
}

// metric is what the best are told by; rank 0 speaks for all.
func (c *Checkpoint) metric() *float64 {
	if m := c.Ranks[0]; m != nil {
		return m.Metric
	}
	return nil
}
