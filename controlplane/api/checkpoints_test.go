package api

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/store"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func TestRequestCheckpointFindsTheOnlyRun(t *testing.T) {
	in := install(t)
	in.connectAgent(t)
	client := controlv1.NewCheckpointServiceClient(in.conn)
	request := func() (string, error) {
		out, err := client.RequestCheckpoint(t.Context(), &controlv1.RequestCheckpointRequest{})
		return out.GetCheckpoint().GetRunId(), err
	}
	if _, err := request(); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "no run trains") {
		t.Errorf("without a run: %v", err)
	}
	in.putRun(t, "over", controlv1.RunState_RUN_STATE_SUCCEEDED)
	in.putRun(t, "r1", controlv1.RunState_RUN_STATE_RUNNING)
	if got, err := request(); got != "r1" || err != nil {
		t.Errorf("with one run that trains: %q, %v", got, err)
	}
	in.putRun(t, "r2", controlv1.RunState_RUN_STATE_RESTARTING)
	_, err := request()
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "r1") || !strings.Contains(err.Error(), "r2") {
		t.Errorf("with two: %v, want both named", err)
	}
}

func TestARepeatedRequestGetsTheFirstDeadline(t *testing.T) {
	in := install(t)
	in.connectAgent(t)
	in.putRun(t, "r1", controlv1.RunState_RUN_STATE_RUNNING)
	client := controlv1.NewCheckpointServiceClient(in.conn)
	request := func(timeout time.Duration) *controlv1.RequestCheckpointResponse {
		out, err := client.RequestCheckpoint(t.Context(), &controlv1.RequestCheckpointRequest{
			RunId: "r1", IdempotencyKey: "k", Timeout: durationpb.New(timeout),
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	first, again := request(time.Minute), request(time.Hour)
	if first.Checkpoint.CheckpointId != again.Checkpoint.CheckpointId || !first.Deadline.AsTime().Equal(again.Deadline.AsTime()) {
		t.Errorf("first %v, again %v", first, again)
	}
}

func TestWatchCheckpoint(t *testing.T) {
	in := install(t)
	in.connectAgent(t)
	in.putRun(t, "r1", controlv1.RunState_RUN_STATE_RUNNING)
	client := controlv1.NewCheckpointServiceClient(in.conn)
	asked, err := client.RequestCheckpoint(t.Context(), &controlv1.RequestCheckpointRequest{RunId: "r1"})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := client.WatchCheckpoint(t.Context(), &controlv1.WatchCheckpointRequest{CheckpointId: asked.Checkpoint.CheckpointId})
	if err != nil {
		t.Fatal(err)
	}
	var last *controlv1.Checkpoint
	for {
		update, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if update.Checkpoint.State <= last.GetState() {
			t.Errorf("%v came after %v", update.Checkpoint.State, last.GetState())
		}
		last = update.Checkpoint
	}
	var states []int32
	for _, stage := range last.Stages {
		states = append(states, int32(stage.State))
	}
	if diff := cmp.Diff([]int32{1, 2, 3, 4, 5}, states); diff != "" {
		t.Errorf("stages (-want +got):\n%s", diff)
	}
}

func TestWatchCheckpointEndsWithAFailure(t *testing.T) {
	in := install(t)
	in.putRun(t, "r1", controlv1.RunState_RUN_STATE_RUNNING)
	progress := &commonv1.CheckpointProgress{CheckpointId: "c1", State: commonv1.CheckpointState_CHECKPOINT_STATE_STAGED}
	if err := in.advance(t.Context(), progress, "r1"); err != nil {
		t.Fatal(err)
	}
	stream, err := controlv1.NewCheckpointServiceClient(in.conn).WatchCheckpoint(t.Context(), &controlv1.WatchCheckpointRequest{CheckpointId: "c1"})
	if err != nil {
		t.Fatal(err)
	}
	if now, err := stream.Recv(); err != nil || now.Checkpoint.State != commonv1.CheckpointState_CHECKPOINT_STATE_STAGED {
		t.Fatalf("first %v, %v, want the present state", now, err)
	}
	progress.State, progress.Error = commonv1.CheckpointState_CHECKPOINT_STATE_FAILED, "disk is full"
	progress.SizeBytes = 100 // the vault's word: what is staged only the vault fails
	if err := in.advance(t.Context(), progress, "r1"); err != nil {
		t.Fatal(err)
	}
	if now, err := stream.Recv(); err != nil || now.Checkpoint.Error != "disk is full" {
		t.Errorf("then %v, %v, want the failure with its reason", now, err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("ended with %v, want EOF", err)
	}
}

// TestKeysAreRotatedOnEachNode: once in each vault that has a checkpoint, and in
// none that has not any more.
func TestKeysAreRotatedOnEachNode(t *testing.T) {
	in := install(t)
	in.update(t, func(tx *store.Tx) error {
		var all error
		for id, node := range map[string]string{"a": "n2", "b": "n1", "c": "n1", "gone": "n3", "unsaved": ""} {
			c := &controlv1.Checkpoint{CheckpointId: id, RunId: "r", Node: node}
			if id == "gone" {
				c.Removed = timestamppb.Now()
			}
			all = errors.Join(all, tx.PutCheckpoint(c))
		}
		return all
	})
	client := controlv1.NewCheckpointTaskServiceClient(in.conn)
	for _, action := range []commonv1.CheckpointAction{
		commonv1.CheckpointAction_CHECKPOINT_ACTION_REWRAP_KEYS, commonv1.CheckpointAction_CHECKPOINT_ACTION_ROTATE_KEYS,
	} {
		out, err := client.RotateKeys(t.Context(), &controlv1.RotateKeysRequest{NewDataKey: action == commonv1.CheckpointAction_CHECKPOINT_ACTION_ROTATE_KEYS})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, task := range out.Tasks {
			if task.Action != action {
				t.Errorf("node %s is asked for %v, want %v", task.Node, task.Action, action)
			}
			got = append(got, task.Node)
		}
		if diff := cmp.Diff([]string{"n1", "n2"}, got); diff != "" {
			t.Errorf("nodes (-want +got):\n%s", diff)
		}
	}
}
