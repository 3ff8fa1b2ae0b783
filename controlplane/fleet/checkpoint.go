package fleet

import (
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

// DefaultTimeout is how long a checkpoint may take when nobody says.
const DefaultTimeout = time.Minute

// SaveRequest asks for a run to be saved.
type SaveRequest struct {
	RunID   string
	Reason  commonv1.CheckpointReason
	After   commonv1.AfterCheckpoint // what its trainers do afterwards
	Failure commonv1.FailureKind     // the failure that it answers, if any
	// IdempotencyKey makes requests of the run with the same key one
	// checkpoint; empty makes each its own.
	IdempotencyKey string
	Traceparent    string        // W3C trace context of whoever asks; may be empty
	Timeout        time.Duration // how long it may take; 0 means [DefaultTimeout]
	// RequireConnected refuses the request when no agent of the run is there,
	// instead of waiting for one until the timeout.
	RequireConnected bool
}

// RequestCheckpoint writes a checkpoint, and a command for each node of its
// run, into the caller's transaction; they are sent once it is committed. A
// repeat of an idempotency key gives the first one's checkpoint as it now is.
//
// It fails with [fault.NotFound] when there is no such run, with
// [fault.Precondition] when the run has ended, and with [fault.Unavailable]
// when nobody is there who could save it and the request asks for that.
func (f *Fleet) RequestCheckpoint(tx *store.Tx, request SaveRequest) (*controlv1.Checkpoint, error) {
	run, err := findRun(tx, request.RunID)
	if err != nil {
		return nil, err
	}
	id := checkpointID(request)
	if request.IdempotencyKey != "" {
		first, err := tx.Checkpoint(id)
		if err == nil || !fault.Is(err, fault.NotFound) {
			return first, err
		}
	}
	if err := refuse(run); err != nil {
		return nil, err
	}
	if request.RequireConnected {
		if err := f.reachable(tx, run); err != nil {
			return nil, err
		}
	}
	now := f.deps.Clock()
	checkpoint := &controlv1.Checkpoint{
		CheckpointId: id,
		RunId:        run.RunId,
		State:        commonv1.CheckpointState_CHECKPOINT_STATE_REQUESTED,
		Reason:       request.Reason,
		Stages: []*controlv1.StageTime{
			{State: commonv1.CheckpointState_CHECKPOINT_STATE_REQUESTED, Time: timestamppb.New(now)},
		},
	}
	if err := tx.PutCheckpoint(checkpoint); err != nil {
		return nil, err
	}
	for _, node := range run.Nodes {
		if _, err := tx.InsertCommand(newCommand(checkpoint, request, node, now)); err != nil {
			return nil, err
		}
	}
	return checkpoint, nil
}

// findRun gives a run; that there is none is said to a person.
func findRun(tx *store.Tx, id string) (*controlv1.Run, error) {
	run, err := tx.Run(id)
	if fault.Is(err, fault.NotFound) {
		return nil, fault.WithHint(fault.New(fault.NotFound, "there is no run %q", id), "agentctl get runs lists the runs")
	}
	return run, err
}

// refuse says why a run's trainers cannot be told anything; nil when they can.
func refuse(run *controlv1.Run) error {
	if run.Ended != nil {
		return fault.WithHint(
			fault.New(fault.Precondition, "run %s has %s", run.RunId, EndedWord(run.State)),
			"its last state is in its checkpoints: agentctl get checkpoints --run "+run.RunId)
	}
	if len(run.Nodes) == 0 {
		return fault.WithHint(
			fault.New(fault.Unavailable, "none of the trainers of run %s has registered yet", run.RunId),
			"try again once agentctl describe run "+run.RunId+" shows its ranks")
	}
	return nil
}

// reachable says when no agent of a run is connected.
func (f *Fleet) reachable(tx *store.Tx, run *controlv1.Run) error {
	connected, err := f.anyConnected(tx, run.Nodes)
	if err != nil {
		return err
	}
	if !connected {
		return fault.WithHint(
			fault.New(fault.Unavailable, "no agent of run %s is connected; its nodes: %s", run.RunId, strings.Join(run.Nodes, ", ")),
			"start vigil-agent there, or see agentctl get nodes")
	}
	return nil
}

// EndedWord says in one word how a run that has ended did so.
func EndedWord(state controlv1.RunState) string {
	switch state {
	case controlv1.RunState_RUN_STATE_SUCCEEDED:
		return "succeeded"
	case controlv1.RunState_RUN_STATE_FAILED:
		return "failed"
	case controlv1.RunState_RUN_STATE_STOPPED:
		return "been stopped"
	default:
		return "ended"
	}
}

// checkpointID gives requests with the same run and idempotency key the same
// id, so that the checkpoint itself says whether a request is a repeat.
func checkpointID(request SaveRequest) string {
	if request.IdempotencyKey == "" {
		return uuid.Must(uuid.NewV7()).String()
	}
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte(request.RunID+"\x00"+request.IdempotencyKey)).String()
}

// newCommand is the row and the message that has one node save its ranks.
func newCommand(checkpoint *controlv1.Checkpoint, request SaveRequest, node string, now time.Time) store.Command {
	timeout := request.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	// The key is the checkpoint's, not the caller's: two runs may be asked for
	// with one caller's key.
	id, key, deadline := uuid.Must(uuid.NewV7()).String(), checkpoint.CheckpointId+"/"+node, now.Add(timeout)
	return store.Command{
		ID:             id,
		IdempotencyKey: key,
		Node:           node,
		RunID:          checkpoint.RunId,
		CheckpointID:   checkpoint.CheckpointId,
		Created:        now,
		Deadline:       deadline,
		Wire: &agentv1.Command{
			CommandId:      id,
			IdempotencyKey: key,
			Deadline:       timestamppb.New(deadline),
			Traceparent:    request.Traceparent,
			Verb: &agentv1.Command_Checkpoint{Checkpoint: &commonv1.CheckpointOrder{
				RunId:        checkpoint.RunId,
				CheckpointId: checkpoint.CheckpointId,
				Reason:       request.Reason,
				After:        request.After,
				Failure:      request.Failure,
			}},
		},
	}
}
