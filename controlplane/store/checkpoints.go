package store

import (
	"cmp"
	"database/sql"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"time"

	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// PutCheckpoint writes a checkpoint. It was created at its first stage's time,
// or now when it has no stage yet.
func (tx *Tx) PutCheckpoint(c *controlv1.Checkpoint) error {
	body, err := marshal(c)
	if err != nil {
		return err
	}
	created := nanos(tx.now)
	if stages := c.GetStages(); len(stages) > 0 {
		created = nanosOf(stages[0].GetTime())
	}
	tx.touch(TopicCheckpoints)
	_, err = tx.exec(`INSERT INTO checkpoints (checkpoint_id, run_id, created, body) VALUES ($1, $2, $3, $4)
		ON CONFLICT (checkpoint_id) DO UPDATE SET body = excluded.body`,
		c.GetCheckpointId(), c.GetRunId(), created, body)
	if err != nil {
		return fmt.Errorf("put checkpoint %s: %w", c.GetCheckpointId(), err)
	}
	return nil
}

// Checkpoint gives a checkpoint.
func (tx *Tx) Checkpoint(id string) (*controlv1.Checkpoint, error) {
	return get[controlv1.Checkpoint](tx, "checkpoint "+id, "SELECT body FROM checkpoints WHERE checkpoint_id = $1", id)
}

// Checkpoints gives at most limit checkpoints of a run, or of every run when
// it is empty, the newest first; limit 0 means all.
func (tx *Tx) Checkpoints(runID string, limit int) ([]*controlv1.Checkpoint, error) {
	return list[controlv1.Checkpoint](tx, "checkpoints", "SELECT body FROM checkpoints WHERE "+ofRun(runID)+
		" ORDER BY created DESC, checkpoint_id DESC LIMIT $2", runID, rowsUpTo(limit))
}

// CheckpointOfEachNode gives one checkpoint of each node whose vault has any, the
// newest; in the order of the nodes.
func (tx *Tx) CheckpointOfEachNode() ([]*controlv1.Checkpoint, error) {
	newest := map[string]*controlv1.Checkpoint{}
	const what = "checkpoints of nodes"
	err := tx.each(what, "SELECT body FROM checkpoints ORDER BY created DESC, checkpoint_id DESC", nil, func(rows *sql.Rows) error {
		var body []byte
		c := &controlv1.Checkpoint{}
		if err := rows.Scan(&body); err != nil {
			return err
		}
		if err := tx.unmarshal(what, body, c); err != nil {
			return err
		}
		if node := c.GetNode(); node != "" && newest[node] == nil && c.GetRemoved() == nil {
			newest[node] = c
		}
		return nil
	})
	all := make([]*controlv1.Checkpoint, 0, len(newest))
	for _, node := range slices.Sorted(maps.Keys(newest)) {
		all = append(all, newest[node])
	}
	return all, err
}

// AdvanceCheckpoint takes in that a rank's part of a checkpoint reached a
// state, and tells whether the checkpoint itself then is in another one. A
// checkpoint is in the least state that all worldSize ranks have reached (0
// means as many as have spoken), and reached it when the last of those that
// said so did. Word of an earlier state that comes late only fills in its time.
// A checkpoint that is not known yet, made by the trainer's schedule or an
// agent's reflex, is written; word of another run's checkpoint is ignored.
//
// Once a rank failed the checkpoint has failed, unless every rank, that one
// too, is in the vault after all: a vault that was restarted tries again.
// What is verified never fails, and once a rank's part is staged only the
// vault, which has it, can say that it failed; its word has the part's size.
func (tx *Tx) AdvanceCheckpoint(p *commonv1.CheckpointProgress, runID string, rank, worldSize uint32, node string, at time.Time) (advanced bool, err error) {
	c, err := tx.Checkpoint(p.GetCheckpointId())
	if fault.Is(err, fault.NotFound) {
		c, err = &controlv1.Checkpoint{CheckpointId: p.GetCheckpointId(), RunId: runID}, nil
	}
	if err != nil {
		return false, err
	}
	if c.GetRunId() != runID {
		return false, nil
	}
	before, heard := c.GetState(), false
	if p.GetState() == commonv1.CheckpointState_CHECKPOINT_STATE_FAILED {
		heard, err = tx.failRank(c, p, rank, at)
	} else {
		heard, err = true, tx.advanceRank(c, p, rank, worldSize, at)
	}
	if err != nil {
		return false, fmt.Errorf("advance checkpoint %s: %w", p.GetCheckpointId(), err)
	}
	if !heard {
		return false, nil
	}
	describe(c, p, rank, node)
	return c.GetState() != before, tx.PutCheckpoint(c)
}

// failRank takes in that a rank's part failed, and tells whether that counts.
// What the rank reached before is forgotten, so that only new word of it makes
// the checkpoint whole.
func (tx *Tx) failRank(c *controlv1.Checkpoint, p *commonv1.CheckpointProgress, rank uint32, at time.Time) (counts bool, err error) {
	id := p.GetCheckpointId()
	said, _, err := tx.rankOf(id, rank)
	reached := commonv1.CheckpointState(bits.Len64(said) - 1)
	ofVault := p.GetSizeBytes() > 0 || p.GetPath() != ""
	switch {
	case err != nil, saved(c.GetState()), reached >= commonv1.CheckpointState_CHECKPOINT_STATE_VERIFIED,
		!Unsaved(reached) && !ofVault:
		return false, err
	}
	_, err = tx.exec(`UPDATE checkpoint_stages SET ranks = ranks - 1 WHERE checkpoint_id = $1 AND state <= $2`, id, reached)
	if err != nil {
		return false, err
	}
	_, err = tx.exec(`INSERT INTO checkpoint_ranks (checkpoint_id, rank, said, size_bytes) VALUES ($1, $2, 0, 0)
		ON CONFLICT (checkpoint_id, rank) DO UPDATE SET said = 0`, id, rank)
	if err != nil {
		return false, err
	}
	fail(c, p.GetError(), at)
	return true, nil
}

// saved tells whether a checkpoint is good for ever.
func saved(state commonv1.CheckpointState) bool {
	return state >= commonv1.CheckpointState_CHECKPOINT_STATE_VERIFIED && state < commonv1.CheckpointState_CHECKPOINT_STATE_FAILED
}

// fail marks a checkpoint as failed; of two reasons the first stays.
func fail(c *controlv1.Checkpoint, why string, at time.Time) {
	if c.GetState() == commonv1.CheckpointState_CHECKPOINT_STATE_FAILED {
		return
	}
	c.Error = why
	reach(c, commonv1.CheckpointState_CHECKPOINT_STATE_FAILED, nanos(at))
}

// advanceRank counts the rank in for each state that is new to it, and moves
// the checkpoint to the states that all ranks have reached. What a rank says
// again changes nothing.
func (tx *Tx) advanceRank(c *controlv1.Checkpoint, p *commonv1.CheckpointProgress, rank, worldSize uint32, at time.Time) error {
	id, state := p.GetCheckpointId(), p.GetState()
	said, sizeBytes, err := tx.rankOf(id, rank)
	if err != nil || said&(1<<state) != 0 {
		return err
	}
	for s := commonv1.CheckpointState(bits.Len64(said)); s <= state; s++ {
		_, err := tx.exec(`INSERT INTO checkpoint_stages (checkpoint_id, state, ranks, reached) VALUES ($1, $2, 1, 0)
			ON CONFLICT (checkpoint_id, state) DO UPDATE SET ranks = checkpoint_stages.ranks + 1`, id, s)
		if err != nil {
			return err
		}
	}
	c.SizeBytes += max(p.GetSizeBytes()-sizeBytes, 0)
	_, err = tx.exec(`INSERT INTO checkpoint_ranks (checkpoint_id, rank, said, size_bytes) VALUES ($1, $2, $3, $4)
		ON CONFLICT (checkpoint_id, rank) DO UPDATE SET said = excluded.said, size_bytes = excluded.size_bytes`,
		id, rank, int64(said|1<<state), max(sizeBytes, p.GetSizeBytes()))
	if err != nil {
		return err
	}
	_, err = tx.exec(`UPDATE checkpoint_stages SET reached = $1
		WHERE checkpoint_id = $2 AND state = $3 AND reached < $1`, nanos(at), id, state)
	if err != nil {
		return err
	}
	return tx.reachTogether(c, worldSize)
}

// reachTogether moves a checkpoint to the states that all its ranks have
// reached: as many as the run has, or as have spoken, where the run is between
// two attempts and its size is not known. One that failed moves only when all
// of it is in the vault.
func (tx *Tx) reachTogether(c *controlv1.Checkpoint, worldSize uint32) error {
	var least commonv1.CheckpointState
	err := tx.one("least state", `SELECT COALESCE(MAX(state), 0) FROM checkpoint_stages WHERE checkpoint_id = $1 AND ranks >= $2
		AND ranks > (SELECT MAX(rank) FROM checkpoint_ranks WHERE checkpoint_id = $1)`, []any{c.GetCheckpointId(), worldSize}, &least)
	if err != nil {
		return err
	}
	if c.GetState() == commonv1.CheckpointState_CHECKPOINT_STATE_FAILED {
		if least < commonv1.CheckpointState_CHECKPOINT_STATE_DURABLE {
			return nil
		}
		c.State, c.Error = least, ""
		c.Stages = slices.DeleteFunc(c.Stages, func(s *controlv1.StageTime) bool {
			return s.GetState() == commonv1.CheckpointState_CHECKPOINT_STATE_FAILED
		})
	}
	return tx.each("stages", `SELECT state, reached FROM checkpoint_stages
		WHERE checkpoint_id = $1 AND state <= $2 ORDER BY state`, []any{c.GetCheckpointId(), least}, func(rows *sql.Rows) error {
		var s commonv1.CheckpointState
		var when int64
		if err := rows.Scan(&s, &when); err != nil {
			return err
		}
		reach(c, s, when)
		return nil
	})
}

// rankOf gives the states that a rank said it reached, as bits, and the bytes
// of its part.
func (tx *Tx) rankOf(id string, rank uint32) (said uint64, sizeBytes int64, err error) {
	err = tx.one("rank", "SELECT said, size_bytes FROM checkpoint_ranks WHERE checkpoint_id = $1 AND rank = $2",
		[]any{id, rank}, &said, &sizeBytes)
	if fault.Is(err, fault.NotFound) {
		return 0, 0, nil
	}
	return said, sizeBytes, err
}

// reach moves a checkpoint to a state, unless it is past it, and notes when;
// a state that was skipped (when is 0) has no time.
func reach(c *controlv1.Checkpoint, state commonv1.CheckpointState, when int64) {
	c.State = max(c.GetState(), state)
	if when == 0 {
		return
	}
	i, found := slices.BinarySearchFunc(c.Stages, state, func(s *controlv1.StageTime, want commonv1.CheckpointState) int {
		return cmp.Compare(s.GetState(), want)
	})
	if !found {
		c.Stages = slices.Insert(c.Stages, i, &controlv1.StageTime{State: state})
	}
	c.Stages[i].Time = timestampOf(when)
}

// describe takes over what the progress says of the checkpoint. Where ranks
// differ rank 0 speaks for it; its health is that of the worst rank.
func describe(c *controlv1.Checkpoint, p *commonv1.CheckpointProgress, rank uint32, node string) {
	if p.GetHealth() >= c.Health && p.GetHealthReason() != "" {
		c.HealthReason = p.GetHealthReason()
	}
	c.Health = max(c.Health, p.GetHealth())
	if p.Metric != nil && (c.Metric == nil || rank == 0) {
		c.Metric = p.Metric
	}
	c.Step = max(c.Step, p.GetStep())
	if c.Reason == commonv1.CheckpointReason_CHECKPOINT_REASON_UNSPECIFIED {
		c.Reason = p.GetReason()
	}
	if p.GetPath() == "" || (c.Path != "" && rank != 0) {
		return
	}
	c.Node, c.Path, c.ManifestSha256 = node, p.GetPath(), p.GetManifestSha256()
}

// Unsaved tells whether nothing of a checkpoint has been written yet.
func Unsaved(state commonv1.CheckpointState) bool {
	return state <= commonv1.CheckpointState_CHECKPOINT_STATE_DIRECTED
}

// FailUnsaved gives up the checkpoint of a command that came to nothing. What
// is staged by then is the vault's and not lost, so it is left alone: late is
// not failed.
func (tx *Tx) FailUnsaved(command Command, why string, at time.Time) error {
	if command.CheckpointID == "" {
		return nil
	}
	checkpoint, err := tx.Checkpoint(command.CheckpointID)
	if err != nil || !Unsaved(checkpoint.State) {
		return err
	}
	fail(checkpoint, why, at)
	return tx.PutCheckpoint(checkpoint)
}

// FailUnsavedOf gives up every checkpoint of a run of which not all ranks have
// written anything: the run is over and nobody is there to do it. Where the
// last word of a node is still on its way and says otherwise, that word counts
// once all of it is in the vault.
func (tx *Tx) FailUnsavedOf(runID, why string, at time.Time) error {
	checkpoints, err := tx.Checkpoints(runID, 0)
	if err != nil {
		return err
	}
	for _, c := range checkpoints {
		if !Unsaved(c.GetState()) {
			continue
		}
		fail(c, why, at)
		if err := tx.PutCheckpoint(c); err != nil {
			return err
		}
	}
	return nil
}
