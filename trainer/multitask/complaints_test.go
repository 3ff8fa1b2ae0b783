package multitask

import (
	"errors"
	"strings"
	"testing"

	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	"github.com/vigil-ml/vigil/trainer/trainertest"
)

// Megatron-LM #1435: a save that fails kills training.
func TestComplaintAFailingSaveKillsTraining(t *testing.T) {
	agent := trainertest.New(t)
	agent.OnCommit = func() (bool, error) { return false, fault.New(fault.Internal, "no space left on device") }
	agent.Start(t)
	out, err := launch{socket: agent.Socket, steps: 30, every: 5}.run(t, t.Context())
	if err != nil || !strings.Contains(out, "parameters sha256") || len(agent.Commits()) != 0 {
		t.Errorf("training ended with %v, %d checkpoints were kept, output %s", err, len(agent.Commits()), out)
	}
}

// accelerate #4195, transformers #31441, Lightning #17543: training does not go
// on as it would have without the interruption.
func TestComplaintResumeIsInexact(t *testing.T) {
	digest := func(out string) string {
		_, after, _ := strings.Cut(out, "parameters sha256 ")
		return strings.TrimSpace(after)
	}
	calm, err := launch{steps: 60}.run(t, t.Context())
	if err != nil || digest(calm) == "" {
		t.Fatalf("%v: %s", err, calm)
	}
	agent := trainertest.New(t)
	agent.OnEvent = func(event *commonv1.Event) {
		if event.GetNonFinite() != nil {
			agent.Order(event.GetEventId(), &commonv1.CheckpointOrder{
				RunId: event.GetRunId(), CheckpointId: "rescue", Reason: commonv1.CheckpointReason_CHECKPOINT_REASON_EMERGENCY,
				After: commonv1.AfterCheckpoint_AFTER_CHECKPOINT_RESTART, Failure: commonv1.FailureKind_FAILURE_KIND_NONFINITE,
			})
		}
	}
	agent.Start(t)
	struck := launch{socket: agent.Socket, steps: 60, faults: "nan-grad@37"}
	if _, err := struck.run(t, t.Context()); err == nil {
		t.Fatal("the run was not interrupted")
	} else if _, ok := errors.AsType[*Interrupted](err); !ok {
		t.Fatal(err)
	}
	struck.attempt = 1
	out, err := struck.run(t, t.Context())
	if err != nil || digest(out) != digest(calm) {
		t.Errorf("%v; interrupted %s, undisturbed %s", err, digest(out), digest(calm))
	}
}
