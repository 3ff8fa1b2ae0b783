package storetest

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func testTasks(t *testing.T, b *bench) {
	at := time.Unix(1000, 0)
	b.update(func(tx *store.Tx) error {
		for i, id := range []string{"t1", "t2"} {
			err := tx.PutTask(&controlv1.CheckpointTask{
				TaskId: id, CheckpointId: "c", RunId: "r", State: controlv1.TaskState_TASK_STATE_PENDING,
				Created: timestamppb.New(at.Add(time.Duration(i) * time.Second)),
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	for _, word := range []*commonv1.CommandResult{
		{CommandId: "t1", Stage: commonv1.CommandStage_COMMAND_STAGE_ACCEPTED},
		{CommandId: "t1", Stage: commonv1.CommandStage_COMMAND_STAGE_RUNNING, DoneBytes: 5, TotalBytes: 9},
		{CommandId: "t1", Stage: commonv1.CommandStage_COMMAND_STAGE_RUNNING, DoneBytes: 3, TotalBytes: 9}, // late word
		{CommandId: "t1", Stage: commonv1.CommandStage_COMMAND_STAGE_DONE, Detail: "good"},
		{CommandId: "t1", Stage: commonv1.CommandStage_COMMAND_STAGE_FAILED, Error: "after its end"},
		{CommandId: "t2", Stage: commonv1.CommandStage_COMMAND_STAGE_FAILED, Error: "why"},
		{CommandId: "no task", Stage: commonv1.CommandStage_COMMAND_STAGE_DONE},
	} {
		b.update(func(tx *store.Tx) error { return tx.AdvanceTask(word, at.Add(time.Minute)) })
	}
	ended := timestamppb.New(at.Add(time.Minute))
	want := []*controlv1.CheckpointTask{
		{TaskId: "t2", CheckpointId: "c", RunId: "r", State: controlv1.TaskState_TASK_STATE_FAILED, Error: "why",
			Created: timestamppb.New(at.Add(time.Second)), Ended: ended},
		{TaskId: "t1", CheckpointId: "c", RunId: "r", State: controlv1.TaskState_TASK_STATE_DONE, Detail: "good",
			DoneBytes: 9, TotalBytes: 9, Created: timestamppb.New(at), Ended: ended},
	}
	b.view(func(tx *store.Tx) error {
		got, err := tx.TasksOf("c", 0)
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("tasks (-want +got):\n%s", diff)
		}
		if _, err := tx.Task("none"); !fault.Is(err, fault.NotFound) {
			t.Errorf("a task that is not there: %v", err)
		}
		return err
	})
}

func testChanges(t *testing.T, b *bench) {
	at := time.Unix(1000, 0)
	b.update(func(tx *store.Tx) error {
		return tx.PutCheckpoint(&controlv1.Checkpoint{
			CheckpointId: "c", RunId: "r", Step: 4, Health: commonv1.CheckpointHealth_CHECKPOINT_HEALTH_HEALTHY,
		})
	})
	change := func(runID, id string, what commonv1.CheckpointChange, health commonv1.CheckpointHealth, reasons ...string) {
		b.update(func(tx *store.Tx) error {
			return tx.ChangeCheckpoint(runID, &commonv1.CheckpointChanged{CheckpointId: id, Change: what, Health: health, Reasons: reasons}, at)
		})
	}
	change("r", "c", commonv1.CheckpointChange_CHECKPOINT_CHANGE_JUDGED, commonv1.CheckpointHealth_CHECKPOINT_HEALTH_SUSPECT, "diverged")
	change("r", "c", commonv1.CheckpointChange_CHECKPOINT_CHANGE_PINNED, 0, "pinned")
	change("r", "c", commonv1.CheckpointChange_CHECKPOINT_CHANGE_KEPT, 0, "pinned")
	change("other", "c", commonv1.CheckpointChange_CHECKPOINT_CHANGE_REMOVED, 0, "not its run")
	change("r", "unknown", commonv1.CheckpointChange_CHECKPOINT_CHANGE_REMOVED, 0, "nobody knows it")
	want := &controlv1.Checkpoint{
		CheckpointId: "c", RunId: "r", Step: 4, Health: commonv1.CheckpointHealth_CHECKPOINT_HEALTH_SUSPECT, HealthReason: "diverged",
		Pinned: true, KeepReasons: []string{"pinned"},
	}
	check := func() {
		t.Helper()
		b.view(func(tx *store.Tx) error {
			got, err := tx.Checkpoint("c")
			if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			return err
		})
	}
	check()
	change("r", "c", commonv1.CheckpointChange_CHECKPOINT_CHANGE_UNPINNED, 0)
	change("r", "c", commonv1.CheckpointChange_CHECKPOINT_CHANGE_JUDGED, commonv1.CheckpointHealth_CHECKPOINT_HEALTH_HEALTHY)
	change("r", "c", commonv1.CheckpointChange_CHECKPOINT_CHANGE_REMOVED, 0, "no rule keeps it")
	want.Pinned, want.Health, want.HealthReason = false, commonv1.CheckpointHealth_CHECKPOINT_HEALTH_HEALTHY, ""
	want.KeepReasons, want.Removed = []string{"no rule keeps it"}, timestamppb.New(at)
	check()
}
