package fleet

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const (
	// taskTime is how long a task may take: whole checkpoints are read.
	taskTime = 6 * time.Hour
	// judgeTime is how long an agent that is away is waited for: it may come back
	// with the run that the judgement is about.
	judgeTime = 24 * time.Hour
	// keyTime is the same for keys that are to be replaced.
	keyTime = 7 * 24 * time.Hour
)

// RequestTask writes something that an agent shall do with a saved checkpoint
// into the caller's transaction; it is sent once that is committed.
//
// It fails with [fault.NotFound] when there is no such checkpoint, with
// [fault.Precondition] when it is in no vault, and with [fault.Unavailable] when
// no agent that has it is connected.
func (f *Fleet) RequestTask(tx *store.Tx, checkpointID string, action commonv1.CheckpointAction, reason string) (*controlv1.CheckpointTask, error) {
	checkpoint, err := tx.Checkpoint(checkpointID)
	if fault.Is(err, fault.NotFound) {
		return nil, fault.WithHint(fault.New(fault.NotFound, "there is no checkpoint %q", checkpointID),
			"agentctl checkpoints ls lists the checkpoints")
	}
	if err != nil {
		return nil, err
	}
	node, err := f.holder(tx, checkpoint)
	if err != nil {
		return nil, err
	}
	return f.putTask(tx, checkpoint, node, action, reason, taskTime)
}

// RequestKeyTask writes something that an agent shall do with the keys of the vault
// that has a checkpoint. An agent that is away is waited for: a key that was
// replaced must not stay in use on one node.
func (f *Fleet) RequestKeyTask(tx *store.Tx, c *controlv1.Checkpoint, action commonv1.CheckpointAction) (*controlv1.CheckpointTask, error) {
	return f.putTask(tx, c, c.GetNode(), action, "", keyTime)
}

func (f *Fleet) putTask(tx *store.Tx, c *controlv1.Checkpoint, node string, action commonv1.CheckpointAction, reason string, most time.Duration) (*controlv1.CheckpointTask, error) {
	now := f.deps.Clock()
	task := &controlv1.CheckpointTask{
		TaskId: uuid.Must(uuid.NewV7()).String(), RunId: c.GetRunId(), CheckpointId: c.GetCheckpointId(),
		Action: action, Reason: reason, Node: node, State: controlv1.TaskState_TASK_STATE_PENDING, Created: timestamppb.New(now),
	}
	command := order(task.GetTaskId(), task.GetTaskId(), node, c.GetRunId(), now, most)
	command.Wire.Verb = &agentv1.Command_CheckpointTask{CheckpointTask: &commonv1.CheckpointTask{
		RunId: c.GetRunId(), CheckpointId: c.GetCheckpointId(), Action: action, Reason: reason,
	}}
	if _, err := tx.InsertCommand(command); err != nil {
		return nil, err
	}
	return task, tx.PutTask(task)
}

// holder gives a connected node whose agent has a checkpoint: the one whose vault
// has rank 0's part, else another of the run's, since vaults may be shared.
func (f *Fleet) holder(tx *store.Tx, c *controlv1.Checkpoint) (string, error) {
	switch {
	case c.GetRemoved() != nil:
		return "", fault.New(fault.Precondition, "checkpoint %s was removed: %s", c.GetCheckpointId(), strings.Join(c.GetKeepReasons(), "; "))
	case c.GetNode() == "":
		return "", fault.New(fault.Precondition, "checkpoint %s is in no vault yet", c.GetCheckpointId())
	}
	nodes := []string{c.GetNode()}
	run, err := tx.Run(c.GetRunId())
	if err != nil && !fault.Is(err, fault.NotFound) {
		return "", err
	}
	for _, node := range append(nodes, run.GetNodes()...) {
		connected, err := f.anyConnected(tx, []string{node})
		if err != nil {
			return "", err
		}
		if connected {
			return node, nil
		}
		if !slices.Contains(nodes, node) {
			nodes = append(nodes, node)
		}
	}
	return "", fault.WithHint(
		fault.New(fault.Unavailable, "no agent that has checkpoint %s is connected; its nodes: %s", c.GetCheckpointId(), strings.Join(nodes, ", ")),
		"start vigil-agent there, or see agentctl get nodes")
}

// Judge has the agents of a run's nodes take in that checkpoints are suspect. It
// writes into the caller's transaction; an agent that is away gets it when it is
// back. A run that is not known has no checkpoints.
func (f *Fleet) Judge(tx *store.Tx, judgement *commonv1.CheckpointJudgement) error {
	run, err := tx.Run(judgement.GetRunId())
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	now := f.deps.Clock()
	for _, node := range run.GetNodes() {
		key := fmt.Sprintf("judge/%s/%d/%s", judgement.GetJudgementId(), judgement.GetToStep(), node)
		command := order(uuid.Must(uuid.NewV7()).String(), key, node, judgement.GetRunId(), now, judgeTime)
		command.Wire.Verb = &agentv1.Command_Judgement{Judgement: judgement}
		if _, err := tx.InsertCommand(command); err != nil {
			return err
		}
	}
	return nil
}

// order is a command without its verb that makes no checkpoint.
func order(id, key, node, runID string, now time.Time, timeout time.Duration) store.Command {
	deadline := now.Add(timeout)
	return store.Command{
		ID: id, IdempotencyKey: key, Node: node, RunID: runID, Created: now, Deadline: deadline,
		Wire: &agentv1.Command{CommandId: id, IdempotencyKey: key, Deadline: timestamppb.New(deadline)},
	}
}
