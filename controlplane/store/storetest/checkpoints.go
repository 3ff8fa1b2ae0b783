package storetest

import (
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
	advances bool // whether the checkpoint is then further
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

func advances() []advance {
	return []advance{
		{
			"asked for, one rank", true, 1,
			[]said{{0, directed, 10, true}, {0, staged, 20, true}, {0, durable, 30, true}, {0, verified, 40, true}},
			verified, []*controlv1.StageTime{stage(requested, 1), stage(directed, 10), stage(staged, 20), stage(durable, 30), stage(verified, 40)},
		},
		{
			"not known before", false, 1,
			[]said{{0, staged, 20, true}, {0, durable, 30, true}},
			durable, []*controlv1.StageTime{stage(staged, 20), stage(durable, 30)},
		},
		{
			"world size not known", false, 0,
			[]said{{0, staged, 20, true}},
			staged, []*controlv1.StageTime{stage(staged, 20)},
		},
		{
			"repeats", true, 1,
			[]said{{0, staged, 20, true}, {0, staged, 25, false}, {0, durable, 30, true}, {0, staged, 35, false}, {0, durable, 39, false}},
			durable, []*controlv1.StageTime{stage(requested, 1), stage(staged, 20), stage(durable, 30)},
		},
		{
			"word of the directive comes late", true, 1,
			[]said{{0, staged, 20, true}, {0, directed, 10, false}},
			staged, []*controlv1.StageTime{stage(requested, 1), stage(directed, 10), stage(staged, 20)},
		},
		{
			"the last rank counts", true, 3,
			[]said{
				{1, staged, 20, false}, {0, staged, 22, false}, {1, durable, 30, false}, {1, verified, 31, false},
				{2, staged, 21, true}, {0, durable, 40, false}, {2, durable, 35, true}, {2, verified, 50, false},
			},
			durable, []*controlv1.StageTime{stage(requested, 1), stage(staged, 22), stage(durable, 40)},
		},
		{
			"a rank skips a state", true, 2,
			[]said{{0, verified, 30, false}, {1, durable, 25, true}},
			durable, []*controlv1.StageTime{stage(requested, 1), stage(durable, 25)},
		},
		{
			"one rank fails and the others go on", true, 2,
			[]said{{0, staged, 20, false}, {1, failed, 21, true}, {0, verified, 30, false}, {1, verified, 31, false}},
			failed, []*controlv1.StageTime{stage(requested, 1), stage(failed, 21)},
		},
	}
}

func testAdvance(t *testing.T, b *bench) {
	for _, test := range advances() {
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
				return err
			})
		})
	}
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
