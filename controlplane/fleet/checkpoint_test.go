package fleet

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func TestRequestCheckpointWritesARowPerNode(t *testing.T) {
	s := openStore(t)
	f := newFleet(t, s)
	putRun(t, s, "r1", controlv1.RunState_RUN_STATE_RUNNING, "n1", "n2")
	request := SaveRequest{
		RunID: "r1", Timeout: 5 * time.Second,
		Reason:  commonv1.CheckpointReason_CHECKPOINT_REASON_EMERGENCY,
		After:   commonv1.AfterCheckpoint_AFTER_CHECKPOINT_RESTART,
		Failure: commonv1.FailureKind_FAILURE_KIND_NONFINITE,
	}
	checkpoint := mustSave(t, f, request)
	stored := view(t, s, func(tx *store.Tx) (*controlv1.Checkpoint, error) { return tx.Checkpoint(checkpoint.CheckpointId) })
	if diff := cmp.Diff(checkpoint, stored, protocmp.Transform()); diff != "" {
		t.Errorf("stored checkpoint (-given +stored):\n%s", diff)
	}
	if stored.State != commonv1.CheckpointState_CHECKPOINT_STATE_REQUESTED || len(stored.Stages) != 1 {
		t.Errorf("checkpoint is %v with %d stages, want REQUESTED with its time", stored.State, len(stored.Stages))
	}
	commands := view(t, s, func(tx *store.Tx) ([]store.Command, error) { return tx.OpenCommands("") })
	var nodes []string
	for _, c := range commands {
		nodes = append(nodes, c.Node)
		order := c.Wire.GetCheckpoint()
		want := &commonv1.CheckpointOrder{
			RunId: "r1", CheckpointId: checkpoint.CheckpointId,
			Reason: request.Reason, After: request.After, Failure: request.Failure,
		}
		if diff := cmp.Diff(want, order, protocmp.Transform()); diff != "" {
			t.Errorf("order for %s (-want +got):\n%s", c.Node, diff)
		}
		if got := c.Deadline.Sub(c.Created); got != request.Timeout || !c.Wire.Deadline.AsTime().Equal(c.Deadline) {
			t.Errorf("deadline is %v after the request and %v on the wire, want %v", got, c.Wire.Deadline.AsTime(), request.Timeout)
		}
	}
	if diff := cmp.Diff([]string{"n1", "n2"}, nodes); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
}

func TestRequestCheckpointRefuses(t *testing.T) {
	s := openStore(t)
	f := newFleet(t, s)
	putRun(t, s, "done", controlv1.RunState_RUN_STATE_SUCCEEDED, "n1")
	putRun(t, s, "young", controlv1.RunState_RUN_STATE_RUNNING)
	putRun(t, s, "alone", controlv1.RunState_RUN_STATE_RUNNING, "n1", "n2")
	for _, tc := range []struct {
		run  string
		kind fault.Kind
		says string
	}{
		{"nobody", fault.NotFound, `"nobody"`},
		{"done", fault.Precondition, "succeeded"},
		{"young", fault.Unavailable, "registered"},
		{"alone", fault.Unavailable, "n1, n2"},
	} {
		t.Run(tc.run, func(t *testing.T) {
			_, err := save(t, f, SaveRequest{RunID: tc.run, RequireConnected: true})
			if !fault.Is(err, tc.kind) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v (%v), want %v with %q", err, fault.KindOf(err), tc.kind, tc.says)
			}
			if fault.HintOf(err) == "" {
				t.Error("the error says nothing on what to do")
			}
		})
	}
	if left := view(t, s, func(tx *store.Tx) ([]store.Command, error) { return tx.OpenCommands("") }); len(left) != 0 {
		t.Errorf("refused requests left %d commands", len(left))
	}
}

func TestRepeatedKeyGivesTheFirstCheckpoint(t *testing.T) {
	s := openStore(t)
	f := newFleet(t, s)
	putRun(t, s, "r1", controlv1.RunState_RUN_STATE_RUNNING, "n1")
	putRun(t, s, "r2", controlv1.RunState_RUN_STATE_RUNNING, "n1")
	first := mustSave(t, f, SaveRequest{RunID: "r1", IdempotencyKey: "k"})
	// A repeat is answered even when the run has ended in between.
	putRun(t, s, "r1", controlv1.RunState_RUN_STATE_FAILED, "n1")
	for _, tc := range []struct {
		name string
		SaveRequest
		same bool
	}{
		{"same run and key", SaveRequest{RunID: "r1", IdempotencyKey: "k"}, true},
		{"another run", SaveRequest{RunID: "r2", IdempotencyKey: "k"}, false},
		{"no key", SaveRequest{RunID: "r2"}, false},
		{"no key again", SaveRequest{RunID: "r2"}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := mustSave(t, f, tc.SaveRequest); (got.CheckpointId == first.CheckpointId) != tc.same {
				t.Errorf("checkpoint %s, first %s, want the same: %v", got.CheckpointId, first.CheckpointId, tc.same)
			}
		})
	}
	if open := view(t, s, func(tx *store.Tx) ([]store.Command, error) { return tx.OpenCommands("") }); len(open) != 4 {
		t.Errorf("%d commands, want one for each checkpoint: 4", len(open))
	}
}
