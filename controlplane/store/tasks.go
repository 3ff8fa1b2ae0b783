package store

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// PutTask writes a task.
func (tx *Tx) PutTask(t *controlv1.CheckpointTask) error {
	body, err := tx.marshal(t)
	if err != nil {
		return err
	}
	tx.touch(TopicTasks)
	_, err = tx.exec(`INSERT INTO checkpoint_tasks (task_id, checkpoint_id, created, body) VALUES ($1, $2, $3, $4)
		ON CONFLICT (task_id) DO UPDATE SET body = excluded.body`,
		t.GetTaskId(), t.GetCheckpointId(), nanosOf(t.GetCreated()), body)
	if err != nil {
		return fmt.Errorf("put task %s: %w", t.GetTaskId(), err)
	}
	return nil
}

// Task gives a task.
func (tx *Tx) Task(id string) (*controlv1.CheckpointTask, error) {
	return get[controlv1.CheckpointTask](tx, "task "+id, "SELECT body FROM checkpoint_tasks WHERE task_id = $1", id)
}

// TasksOf gives at most limit tasks of a checkpoint, the newest first; limit 0
// means all.
func (tx *Tx) TasksOf(checkpointID string, limit int) ([]*controlv1.CheckpointTask, error) {
	return list[controlv1.CheckpointTask](tx, "tasks of checkpoint "+checkpointID,
		"SELECT body FROM checkpoint_tasks WHERE checkpoint_id = $1 ORDER BY created DESC, task_id DESC LIMIT $2", checkpointID, rowsUpTo(limit))
}

// AdvanceTask takes in an agent's word on a task, by the id of its command. Word
// on a command that is no task, or of what has ended, changes nothing.
func (tx *Tx) AdvanceTask(r *commonv1.CommandResult, at time.Time) error {
	t, err := tx.Task(r.GetCommandId())
	if fault.Is(err, fault.NotFound) || (err == nil && t.GetEnded() != nil) {
		return nil
	}
	if err != nil {
		return err
	}
	switch r.GetStage() {
	case commonv1.CommandStage_COMMAND_STAGE_ACCEPTED, commonv1.CommandStage_COMMAND_STAGE_RUNNING:
		t.State = controlv1.TaskState_TASK_STATE_RUNNING
		t.DoneBytes, t.TotalBytes = max(t.GetDoneBytes(), r.GetDoneBytes()), max(t.GetTotalBytes(), r.GetTotalBytes())
	case commonv1.CommandStage_COMMAND_STAGE_DONE:
		t.State, t.Detail, t.Ended = controlv1.TaskState_TASK_STATE_DONE, r.GetDetail(), timestamppb.New(at)
		t.DoneBytes = t.GetTotalBytes()
	case commonv1.CommandStage_COMMAND_STAGE_FAILED:
		t.State, t.Error, t.Ended = controlv1.TaskState_TASK_STATE_FAILED, r.GetError(), timestamppb.New(at)
	default:
		return nil
	}
	return tx.PutTask(t)
}

// ChangeCheckpoint takes in what became of a saved checkpoint. One that is not
// known, or is another run's, is left alone.
func (tx *Tx) ChangeCheckpoint(runID string, what *commonv1.CheckpointChanged, at time.Time) error {
	c, err := tx.Checkpoint(what.GetCheckpointId())
	if fault.Is(err, fault.NotFound) || (err == nil && c.GetRunId() != runID) {
		return nil
	}
	if err != nil {
		return err
	}
	switch what.GetChange() {
	case commonv1.CheckpointChange_CHECKPOINT_CHANGE_KEPT:
		c.KeepReasons = what.GetReasons()
	case commonv1.CheckpointChange_CHECKPOINT_CHANGE_REMOVED:
		c.KeepReasons, c.Removed = what.GetReasons(), timestamppb.New(at)
	case commonv1.CheckpointChange_CHECKPOINT_CHANGE_PINNED:
		c.Pinned = true
	case commonv1.CheckpointChange_CHECKPOINT_CHANGE_UNPINNED:
		c.Pinned = false
	case commonv1.CheckpointChange_CHECKPOINT_CHANGE_JUDGED:
		c.Health, c.HealthReason = what.GetHealth(), ""
		if len(what.GetReasons()) > 0 {
			c.HealthReason = what.GetReasons()[0]
		}
	default:
		return nil
	}
	return tx.PutCheckpoint(c)
}
