package command_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// Do stands for the vault.
func (d *desk) Do(ctx context.Context, task *commonv1.CheckpointTask, progress func(done, total int64)) (string, error) {
	d.mu.Lock()
	d.orders = append(d.orders, task.GetAction().String())
	d.mu.Unlock()
	progress(1, 2) // too early to be worth telling
	return "done with " + task.GetCheckpointId(), d.answer(ctx, task.GetCheckpointId())
}

// Judge stands for the vault.
func (d *desk) Judge(_ context.Context, j *commonv1.CheckpointJudgement) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.orders = append(d.orders, j.GetJudgementId())
	return nil
}

func TestTasksAndJudgements(t *testing.T) {
	d := newDesk(t, filepath.Join(t.TempDir(), "commands.json"), func(_ context.Context, id string) error {
		if id == "bad" {
			return errors.New("it is pinned")
		}
		return nil
	})
	task := func(id, checkpoint string) *agentv1.Command {
		return &agentv1.Command{CommandId: id, Verb: &agentv1.Command_CheckpointTask{CheckpointTask: &commonv1.CheckpointTask{
			RunId: "run", CheckpointId: checkpoint, Action: commonv1.CheckpointAction_CHECKPOINT_ACTION_REMOVE,
		}}}
	}
	d.Execute(t.Context(), task("a", "good"))
	d.wait(t, 2)
	d.Execute(t.Context(), task("b", "bad"))
	d.wait(t, 4)
	d.Execute(t.Context(), &agentv1.Command{CommandId: "c", Verb: &agentv1.Command_Judgement{
		Judgement: &commonv1.CheckpointJudgement{RunId: "run", JudgementId: "finding-1"},
	}})
	d.wait(t, 6)
	want := []string{"run a ACCEPTED", "run a DONE", "run b ACCEPTED", "run b FAILED it is pinned", "run c ACCEPTED", "run c DONE"}
	if diff := cmp.Diff(want, d.results()); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
	asked := []string{"CHECKPOINT_ACTION_REMOVE", "CHECKPOINT_ACTION_REMOVE", "finding-1"}
	if diff := cmp.Diff(asked, d.ordered()); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
}
