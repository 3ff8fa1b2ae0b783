package storetest

import (
	"errors"
	"testing"

	"github.com/vigil-ml/vigil/controlplane/store"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Short names for the states.
const (
	requested = commonv1.CheckpointState_CHECKPOINT_STATE_REQUESTED
	directed  = commonv1.CheckpointState_CHECKPOINT_STATE_DIRECTED
	staged    = commonv1.CheckpointState_CHECKPOINT_STATE_STAGED
	durable   = commonv1.CheckpointState_CHECKPOINT_STATE_DURABLE
	verified  = commonv1.CheckpointState_CHECKPOINT_STATE_VERIFIED
	failed    = commonv1.CheckpointState_CHECKPOINT_STATE_FAILED
)

func stage(s commonv1.CheckpointState, ms int) *controlv1.StageTime {
	return &controlv1.StageTime{State: s, Time: stamp(ms)}
}

func testCheckpoints(t *testing.T, b *bench) {
	put := func(id, run string, ms int) *controlv1.Checkpoint {
		c := &controlv1.Checkpoint{CheckpointId: id, RunId: run, State: requested, Stages: []*controlv1.StageTime{stage(requested, ms)}}
		b.update(func(tx *store.Tx) error { return tx.PutCheckpoint(c) })
		return c
	}
	put("c1", "r1", 10)
	put("c2", "r2", 30)
	third := put("c3", "r1", 20)
	third.Error, third.State = "expired", failed
	b.update(func(tx *store.Tx) error { return tx.PutCheckpoint(third) })
	id := func(c *controlv1.Checkpoint) string { return c.GetCheckpointId() }
	for _, test := range []struct {
		run   string
		limit int
		want  []string
	}{
		{"", 0, []string{"c2", "c3", "c1"}},
		{"", 1, []string{"c2"}},
		{"r1", 10, []string{"c3", "c1"}},
		{"none", 10, nil},
	} {
		b.view(func(tx *store.Tx) error {
			got, err := tx.Checkpoints(test.run, test.limit)
			b.same("checkpoints of "+test.run, ids(got, id), test.want)
			return err
		})
	}
	b.view(func(tx *store.Tx) error {
		got, err := tx.Checkpoint("c3")
		b.same("checkpoint", got, third)
		return err
	})
}

// said is one rank's word: it reached a state at so many milliseconds.
type said struct {
	rank     uint32
	state    commonv1.CheckpointState
	ms       int
	advances bool // whether the checkpoint is then in another state
	vault    bool // whether it is the vault's word, which has the part's size
}

// advance is what the ranks of a run of so many say of a checkpoint, and where
// it then is.
type advance struct {
	name   string
	put    bool // the control plane asked for it
	world  uint32
	said   []said
	state  commonv1.CheckpointState
	stages []*controlv1.StageTime
}

func word(rank uint32, state commonv1.CheckpointState, ms int, advances bool) said {
	return said{rank: rank, state: state, ms: ms, advances: advances}
}

// ofVault is a word of the vault's.
func ofVault(s said) said { s.vault = true; return s }

func advances() []advance {
	return []advance{
		{
			"asked for, one rank", true, 1,
			[]said{word(0, directed, 10, true), word(0, staged, 20, true), word(0, durable, 30, true), word(0, verified, 40, true)},
			verified, []*controlv1.StageTime{stage(requested, 1), stage(directed, 10), stage(staged, 20), stage(durable, 30), stage(verified, 40)},
		},
		{
			"not known before", false, 1,
			[]said{word(0, staged, 20, true), word(0, durable, 30, true)},
			durable, []*controlv1.StageTime{stage(staged, 20), stage(durable, 30)},
		},
		{
			"world size not known", false, 0,
			[]said{word(0, staged, 20, true)},
			staged, []*controlv1.StageTime{stage(staged, 20)},
		},
		{
			"repeats", true, 1,
			[]said{word(0, staged, 20, true), word(0, staged, 25, false), word(0, durable, 30, true), word(0, staged, 35, false), word(0, durable, 39, false)},
			durable, []*controlv1.StageTime{stage(requested, 1), stage(staged, 20), stage(durable, 30)},
		},
		{
			"word of the directive comes late", true, 1,
			[]said{word(0, staged, 20, true), word(0, directed, 10, false)},
			staged, []*controlv1.StageTime{stage(requested, 1), stage(directed, 10), stage(staged, 20)},
		},
		{
			"the last rank counts", true, 3,
			[]said{
				word(1, staged, 20, false), word(0, staged, 22, false), word(1, durable, 30, false), word(1, verified, 31, false),
				word(2, staged, 21, true), word(0, durable, 40, false), word(2, durable, 35, true), word(2, verified, 50, false),
			},
			durable, []*controlv1.StageTime{stage(requested, 1), stage(staged, 22), stage(durable, 40)},
		},
		{
			"a rank skips a state", true, 2,
			[]said{word(0, verified, 30, false), word(1, durable, 25, true)},
			durable, []*controlv1.StageTime{stage(requested, 1), stage(durable, 25)},
		},
		{
			"one rank fails and the others go on", true, 2,
			[]said{word(0, staged, 20, false), word(1, failed, 21, true), word(0, verified, 30, false)},
			failed, []*controlv1.StageTime{stage(requested, 1), stage(failed, 21)},
		},
	}
}

// failures are who may say that a checkpoint failed, and who may take it back.
func failures() []advance {
	asked, vaultFailed := stage(requested, 1), func(rank uint32, ms int, advances bool) said {
		return ofVault(word(rank, failed, ms, advances))
	}
	return []advance{
		{
			"nobody but the vault fails what is staged", true, 1,
			[]said{word(0, staged, 20, true), word(0, failed, 21, false), word(0, durable, 30, true), word(0, failed, 31, false)},
			durable, []*controlv1.StageTime{asked, stage(staged, 20), stage(durable, 30)},
		},
		{
			"the vault fails what is staged", true, 1,
			[]said{word(0, staged, 20, true), vaultFailed(0, 21, true)},
			failed, []*controlv1.StageTime{asked, stage(staged, 20), stage(failed, 21)},
		},
		{
			"nobody fails what is verified", true, 1,
			[]said{word(0, verified, 20, true), vaultFailed(0, 21, false), word(1, failed, 22, false)},
			verified, []*controlv1.StageTime{asked, stage(verified, 20)},
		},
		{
			"nobody fails a rank that is verified", true, 2,
			[]said{word(0, verified, 20, false), vaultFailed(0, 21, false), word(1, verified, 30, true)},
			verified, []*controlv1.StageTime{asked, stage(verified, 30)},
		},
		{
			"a vault that tries again succeeds", true, 1,
			[]said{word(0, staged, 20, true), vaultFailed(0, 21, true), word(0, durable, 40, true), word(0, verified, 50, true)},
			verified, []*controlv1.StageTime{asked, stage(staged, 20), stage(durable, 40), stage(verified, 50)},
		},
		{
			"old word does not take a failure back", true, 1,
			[]said{word(0, durable, 20, true), vaultFailed(0, 21, true), word(0, directed, 10, false), word(0, staged, 11, false)},
			failed, []*controlv1.StageTime{asked, stage(durable, 20), stage(failed, 21)},
		},
		{
			"every rank that failed tries again", true, 2,
			[]said{
				word(0, staged, 20, false), word(1, staged, 21, true), vaultFailed(0, 22, true), vaultFailed(1, 23, false),
				word(0, verified, 30, false), word(1, durable, 31, true), word(1, verified, 32, true),
			},
			verified, []*controlv1.StageTime{asked, stage(staged, 21), stage(durable, 31), stage(verified, 32)},
		},
		{
			"a rank that failed counts where the world's size is not known", true, 0,
			[]said{word(1, directed, 10, false), word(1, failed, 20, true), word(0, verified, 30, false)},
			failed, []*controlv1.StageTime{asked, stage(failed, 20)},
		},
	}
}

func testAdvance(t *testing.T, b *bench) {
	for _, test := range append(advances(), failures()...) {
		t.Run(test.name, func(t *testing.T) {
			id := "c/" + test.name
			if test.put {
				b.update(func(tx *store.Tx) error {
					return tx.PutCheckpoint(&controlv1.Checkpoint{CheckpointId: id, RunId: "r", State: requested,
						Stages: []*controlv1.StageTime{stage(requested, 1)}})
				})
			}
			for _, s := range test.said {
				p := &commonv1.CheckpointProgress{CheckpointId: id, State: s.state, SizeBytes: 100, Step: 7}
				if s.state == failed {
					p.Error, p.SizeBytes = "planted", 0
				}
				if s.vault {
					p.SizeBytes = 100
				}
				b.update(func(tx *store.Tx) error {
					advanced, err := tx.AdvanceCheckpoint(p, "r", s.rank, test.world, "n1", at(s.ms))
					if advanced != s.advances {
						t.Errorf("rank %d %s: advanced is %v", s.rank, s.state, advanced)
					}
					return err
				})
			}
			b.view(func(tx *store.Tx) error {
				got, err := tx.Checkpoint(id)
				b.same("state", got.GetState(), test.state)
				b.same("stages", got.GetStages(), test.stages)
				b.same("run", got.GetRunId(), "r")
				b.same("error", got.GetError() != "", test.state == failed)
				return err
			})
		})
	}
	t.Run("another run's word", func(*testing.T) {
		for _, state := range []commonv1.CheckpointState{failed, verified} {
			b.update(func(tx *store.Tx) error {
				id := "c/asked for, one rank"
				before, err := tx.Checkpoint(id)
				p := &commonv1.CheckpointProgress{CheckpointId: id, State: state, SizeBytes: 7, Step: 99, Path: "/elsewhere"}
				advanced, errAdvance := tx.AdvanceCheckpoint(p, "another", 0, 1, "n2", at(90))
				after, errAfter := tx.Checkpoint(id)
				b.same("advanced", advanced, false)
				b.same("checkpoint", after, before)
				return errors.Join(err, errAdvance, errAfter)
			})
		}
	})
	t.Run("what it tells", func(*testing.T) { testAdvanceDetails(b) })
}

func testAdvanceDetails(b *bench) {
	words := []struct {
		rank uint32
		node string
		p    *commonv1.CheckpointProgress
	}{
		{1, "n2", &commonv1.CheckpointProgress{State: staged, SizeBytes: 40, Step: 9, Reason: commonv1.CheckpointReason_CHECKPOINT_REASON_REFLEX}},
		{1, "n2", &commonv1.CheckpointProgress{State: durable, SizeBytes: 40, Path: "/b", ManifestSha256: "bb"}},
		{0, "n1", &commonv1.CheckpointProgress{State: durable, SizeBytes: 2, Path: "/a", ManifestSha256: "aa",
			Health: commonv1.CheckpointHealth_CHECKPOINT_HEALTH_SUSPECT}},
		{1, "n2", &commonv1.CheckpointProgress{State: verified, SizeBytes: 40, Path: "/b", ManifestSha256: "bb",
			Health: commonv1.CheckpointHealth_CHECKPOINT_HEALTH_HEALTHY}},
	}
	for i, w := range words {
		w.p.CheckpointId = "details"
		b.update(func(tx *store.Tx) error {
			_, err := tx.AdvanceCheckpoint(w.p, "r", w.rank, 2, w.node, at(i))
			return err
		})
	}
	b.view(func(tx *store.Tx) error {
		got, err := tx.Checkpoint("details")
		b.same("details", got, &controlv1.Checkpoint{
			CheckpointId: "details", RunId: "r", State: durable, Step: 9, SizeBytes: 42, Node: "n1", Path: "/a",
			ManifestSha256: "aa", Reason: commonv1.CheckpointReason_CHECKPOINT_REASON_REFLEX,
			Health: commonv1.CheckpointHealth_CHECKPOINT_HEALTH_SUSPECT,
			Stages: []*controlv1.StageTime{stage(staged, 0), stage(durable, 2)},
		})
		return err
	})
}
