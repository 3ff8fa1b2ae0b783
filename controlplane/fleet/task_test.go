package fleet

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func TestRequestTask(t *testing.T) {
	s := openStore(t)
	f := newFleet(t, s)
	putRun(t, s, "r", controlv1.RunState_RUN_STATE_RUNNING, "n1", "n2")
	put := func(c *controlv1.Checkpoint) {
		t.Helper()
		if err := s.Update(t.Context(), func(tx *store.Tx) error { return tx.PutCheckpoint(c) }); err != nil {
			t.Fatal(err)
		}
	}
	put(&controlv1.Checkpoint{CheckpointId: "saved", RunId: "r", Node: "n1"})
	put(&controlv1.Checkpoint{CheckpointId: "staged", RunId: "r"})
	ask := func(id string) (task *controlv1.CheckpointTask, err error) {
		err = s.Update(t.Context(), func(tx *store.Tx) error {
			task, err = f.RequestTask(tx, id, commonv1.CheckpointAction_CHECKPOINT_ACTION_PIN, "why")
			return err
		})
		return task, err
	}
	for id, kind := range map[string]fault.Kind{"none": fault.NotFound, "staged": fault.Precondition, "saved": fault.Unavailable} {
		if _, err := ask(id); !fault.Is(err, kind) {
			t.Errorf("%s: %v, want %s", id, err, kind)
		}
	}
	connect(t, f, "n2") // vaults may be shared: it does where n1 is away
	if task, err := ask("saved"); err != nil || task.GetNode() != "n2" {
		t.Errorf("with n2 alone: %v, %v", task, err)
	}
	connect(t, f, "n1")
	task, err := ask("saved")
	if err != nil || task.GetNode() != "n1" || task.GetState() != controlv1.TaskState_TASK_STATE_PENDING {
		t.Fatalf("asked: %v, %v", task, err)
	}
	command := view(t, s, func(tx *store.Tx) (store.Command, error) { return tx.Command(task.GetTaskId()) })
	want := &commonv1.CheckpointTask{RunId: "r", CheckpointId: "saved", Action: commonv1.CheckpointAction_CHECKPOINT_ACTION_PIN, Reason: "why"}
	if diff := cmp.Diff(want, command.Wire.GetCheckpointTask(), protocmp.Transform()); diff != "" || command.CheckpointID != "" {
		t.Errorf("command (-want +got):\n%s", diff)
	}
	// Nobody answers: at the deadline the task has failed, and says why.
	if err := f.expire(t.Context(), command.Deadline.Add(lastWord)); err != nil {
		t.Fatal(err)
	}
	task = view(t, s, func(tx *store.Tx) (*controlv1.CheckpointTask, error) { return tx.Task(task.GetTaskId()) })
	if task.GetState() != controlv1.TaskState_TASK_STATE_FAILED || !strings.Contains(task.GetError(), "did not finish within") {
		t.Errorf("after the deadline: %v", task)
	}
}

func TestJudge(t *testing.T) {
	s := openStore(t)
	f := newFleet(t, s)
	putRun(t, s, "r", controlv1.RunState_RUN_STATE_RUNNING, "n1", "n2")
	judged := &commonv1.CheckpointJudgement{RunId: "r", JudgementId: "finding-1", FromStep: 9, Reason: "diverged"}
	other := &commonv1.CheckpointJudgement{RunId: "nobody knows it", JudgementId: "finding-2"}
	for _, j := range []*commonv1.CheckpointJudgement{judged, judged, other} {
		if err := s.Update(t.Context(), func(tx *store.Tx) error { return f.Judge(tx, j) }); err != nil {
			t.Fatal(err)
		}
	}
	commands := view(t, s, func(tx *store.Tx) ([]store.Command, error) { return tx.OpenCommands("") })
	if len(commands) != 2 {
		t.Fatalf("%d commands, want one a node", len(commands))
	}
	for _, c := range commands {
		if diff := cmp.Diff(judged, c.Wire.GetJudgement(), protocmp.Transform()); diff != "" {
			t.Errorf("to %s (-want +got):\n%s", c.Node, diff)
		}
	}
}
