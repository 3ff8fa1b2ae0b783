package api

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const tasksShown = 100

// tasks is the CheckpointTaskService.
type tasks struct {
	controlv1.UnimplementedCheckpointTaskServiceServer
	store *store.Store
	saver Saver
}

// GetCheckpoint shows one checkpoint with what was done with it.
func (s *tasks) GetCheckpoint(ctx context.Context, in *controlv1.GetCheckpointRequest) (*controlv1.GetCheckpointResponse, error) {
	if err := required("checkpoint_id", in.CheckpointId, hintCheckpoints); err != nil {
		return nil, err
	}
	out := &controlv1.GetCheckpointResponse{}
	err := s.store.View(ctx, func(tx *store.Tx) (err error) {
		if out.Checkpoint, err = tx.Checkpoint(in.CheckpointId); err != nil {
			return err
		}
		out.Tasks, err = tx.TasksOf(in.CheckpointId, tasksShown)
		return err
	})
	if fault.Is(err, fault.NotFound) {
		return nil, fault.WithHint(fault.New(fault.NotFound, "there is no checkpoint %q", in.CheckpointId), hintCheckpoints)
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// VerifyCheckpoint has every byte read back and compared.
func (s *tasks) VerifyCheckpoint(ctx context.Context, in *controlv1.VerifyCheckpointRequest) (*controlv1.VerifyCheckpointResponse, error) {
	task, err := s.ask(ctx, in.CheckpointId, commonv1.CheckpointAction_CHECKPOINT_ACTION_VERIFY, "")
	if err != nil {
		return nil, err
	}
	return &controlv1.VerifyCheckpointResponse{Task: task}, nil
}

// PinCheckpoint has a checkpoint kept, or not any more.
func (s *tasks) PinCheckpoint(ctx context.Context, in *controlv1.PinCheckpointRequest) (*controlv1.PinCheckpointResponse, error) {
	action := commonv1.CheckpointAction_CHECKPOINT_ACTION_PIN
	if in.Unpin {
		action = commonv1.CheckpointAction_CHECKPOINT_ACTION_UNPIN
	}
	task, err := s.ask(ctx, in.CheckpointId, action, in.Reason)
	if err != nil {
		return nil, err
	}
	return &controlv1.PinCheckpointResponse{Task: task}, nil
}

// RemoveCheckpoint removes a checkpoint.
func (s *tasks) RemoveCheckpoint(ctx context.Context, in *controlv1.RemoveCheckpointRequest) (*controlv1.RemoveCheckpointResponse, error) {
	task, err := s.ask(ctx, in.CheckpointId, commonv1.CheckpointAction_CHECKPOINT_ACTION_REMOVE, in.Reason)
	if err != nil {
		return nil, err
	}
	return &controlv1.RemoveCheckpointResponse{Task: task}, nil
}

// RestoreCheckpoint has a checkpoint's files written out.
func (s *tasks) RestoreCheckpoint(ctx context.Context, in *controlv1.RestoreCheckpointRequest) (*controlv1.RestoreCheckpointResponse, error) {
	action := commonv1.CheckpointAction_CHECKPOINT_ACTION_RESTORE
	if in.Archive {
		action = commonv1.CheckpointAction_CHECKPOINT_ACTION_EXPORT
	}
	task, err := s.ask(ctx, in.CheckpointId, action, "")
	if err != nil {
		return nil, err
	}
	return &controlv1.RestoreCheckpointResponse{Task: task}, nil
}

// RotateKeys has the keys of every vault encrypted anew. A node's checkpoint names
// its vault.
func (s *tasks) RotateKeys(ctx context.Context, in *controlv1.RotateKeysRequest) (*controlv1.RotateKeysResponse, error) {
	action := commonv1.CheckpointAction_CHECKPOINT_ACTION_REWRAP_KEYS
	if in.NewDataKey {
		action = commonv1.CheckpointAction_CHECKPOINT_ACTION_ROTATE_KEYS
	}
	out := &controlv1.RotateKeysResponse{}
	var all []*controlv1.Checkpoint
	// Not in the transaction that writes: there may be very many.
	err := s.store.View(ctx, func(tx *store.Tx) (err error) {
		all, err = tx.CheckpointOfEachNode()
		return err
	})
	if err != nil {
		return nil, err
	}
	err = s.store.Update(ctx, func(tx *store.Tx) error {
		out.Tasks = nil // it may be run again
		for _, c := range all {
			task, err := s.saver.RequestKeyTask(tx, c, action)
			if err != nil {
				return err
			}
			out.Tasks = append(out.Tasks, task)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (s *tasks) ask(ctx context.Context, checkpointID string, action commonv1.CheckpointAction, reason string) (task *controlv1.CheckpointTask, err error) {
	if err := required("checkpoint_id", checkpointID, hintCheckpoints); err != nil {
		return nil, err
	}
	err = s.store.Update(ctx, func(tx *store.Tx) error {
		task, err = s.saver.RequestTask(tx, checkpointID, action, reason)
		return err
	})
	return task, err
}

// WatchCheckpointTask streams a task as it is, then each time that it comes
// further, and ends with its end.
func (s *tasks) WatchCheckpointTask(in *controlv1.WatchCheckpointTaskRequest, out grpc.ServerStreamingServer[controlv1.WatchCheckpointTaskResponse]) error {
	if err := required("task_id", in.TaskId, hintCheckpoints); err != nil {
		return err
	}
	var last *controlv1.CheckpointTask
	for {
		// Taken before the read, so that a commit between the two is not missed.
		changed := s.store.Changed(store.TopicTasks)
		var now *controlv1.CheckpointTask
		err := s.store.View(out.Context(), func(tx *store.Tx) (err error) {
			now, err = tx.Task(in.TaskId)
			return err
		})
		if err != nil {
			return err
		}
		if !proto.Equal(last, now) {
			if err := out.Send(&controlv1.WatchCheckpointTaskResponse{Task: now}); err != nil {
				return err
			}
			last = now
		}
		if now.GetEnded() != nil {
			return nil
		}
		select {
		case <-changed:
		case <-out.Context().Done():
			return out.Context().Err()
		}
	}
}
