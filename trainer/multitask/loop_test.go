package multitask

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/protocol"
	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	"github.com/vigil-ml/vigil/trainer"
	"github.com/vigil-ml/vigil/trainer/inject"
	"github.com/vigil-ml/vigil/trainer/trainertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// launch is one process' worth of a run.
type launch struct {
	socket   string
	attempt  uint32
	steps    int64
	every    int64
	faults   string
	exitFile string
	saveNow  chan os.Signal
	change   func(*LoopConfig, *LoopDeps)
}

// run trains as one attempt would and gives what it wrote.
func (a launch) run(t *testing.T, ctx context.Context) (string, error) {
	t.Helper()
	session, err := trainer.Connect(ctx, trainer.Config{
		Socket: a.socket, RunID: "digits-1", Attempt: a.attempt, ExitFile: a.exitFile, Framework: Format,
	}, trainer.Deps{Log: testkit.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	plan, err := inject.Parse(a.faults)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	config := LoopConfig{Training: Defaults(), Steps: a.steps, CheckpointEvery: a.every, Faults: plan}
	deps := LoopDeps{Session: session, Log: testkit.Logger(t), Out: &out, SaveNow: a.saveNow}
	if a.change != nil {
		a.change(&config, &deps)
	}
	err = Run(ctx, config, deps)
	if closeErr := session.Close(context.WithoutCancel(ctx)); closeErr != nil {
		t.Errorf("close session: %v", closeErr)
	}
	return out.String(), err
}

func digestOf(t *testing.T, steps int) string {
	t.Helper()
	training := begin(t, nil)
	train(t, training, steps)
	return training.Digest()
}

// rescuer is an agent that answers a non-finite value as a control plane would.
func rescuer(t *testing.T) *trainertest.Agent {
	t.Helper()
	agent := trainertest.New(t)
	agent.OnEvent = func(event *commonv1.Event) {
		if event.GetNonFinite() != nil {
			agent.Order("d", &commonv1.CheckpointOrder{
				RunId: event.GetRunId(), CheckpointId: "rescue", Reason: commonv1.CheckpointReason_CHECKPOINT_REASON_EMERGENCY,
				After: commonv1.AfterCheckpoint_AFTER_CHECKPOINT_RESTART, Failure: commonv1.FailureKind_FAILURE_KIND_NONFINITE,
			})
		}
	}
	agent.Start(t)
	return agent
}

func TestANonFiniteGradientIsSurvivedBitForBit(t *testing.T) {
	agent := rescuer(t)
	exitFile := filepath.Join(t.TempDir(), "exit.json")
	hit := launch{socket: agent.Socket, steps: 60, every: 25, faults: "nan-grad@40", exitFile: exitFile}
	out, err := hit.run(t, t.Context())
	interrupted, ok := errors.AsType[*Interrupted](err)
	if !ok || interrupted.CheckpointID != "rescue" || interrupted.Stop || interrupted.Failure != commonv1.FailureKind_FAILURE_KIND_NONFINITE {
		t.Fatalf("Run = %+v", err)
	}
	if want := "step 40: encoder.1.weight.grad has 1 NaN and 0 infinite values; saved as rescue"; !strings.Contains(out, want) {
		t.Errorf("said %q, want %q", out, want)
	}
	var report protocol.ExitReport
	data, _ := os.ReadFile(exitFile)
	if err := json.Unmarshal(data, &report); err != nil || report.Failure != "FAILURE_KIND_NONFINITE" || report.CheckpointID != "rescue" || report.Stop {
		t.Errorf("exit report is %s", data)
	}
	commits := agent.Commits()
	if len(commits) != 2 || commits[0].GetMetadata().GetStep() != 25 || commits[1].GetMetadata().GetStep() != 39 ||
		commits[1].GetMetadata().NonfiniteParameters == nil || commits[1].GetMetadata().GetNonfiniteParameters() != 0 {
		t.Fatalf("commits are %v", commits)
	}

	hit.attempt = 1
	out, err = hit.run(t, t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := digestOf(t, 60)
	if !strings.Contains(out, "parameters sha256 "+want) {
		t.Errorf("the restarted run says %q, want digest %s", out, want)
	}
	var resumed, ended bool
	for _, event := range agent.Events() {
		resumed = resumed || event.GetResumed().GetStep() == 39 && event.GetAttempt() == 1
		ended = ended || event.GetRunEnded().GetParametersSha256() == want
	}
	if !resumed || !ended {
		t.Errorf("resumed %v, ended %v", resumed, ended)
	}
	if last := agent.Commits(); last[len(last)-1].GetMetadata().GetStep() != 60 {
		t.Errorf("the last state was not kept: %v", last)
	}
}

func TestWithoutAnAgentItTrainsAndANaNEndsItUnsaved(t *testing.T) {
	out, err := launch{steps: 30, every: 10}.run(t, t.Context())
	if err != nil || !strings.Contains(out, digestOf(t, 30)) {
		t.Errorf("Run = %v, said %q", err, out)
	}
	out, err = launch{steps: 30, faults: "nan-grad@20"}.run(t, t.Context())
	interrupted, ok := errors.AsType[*Interrupted](err)
	if !ok || interrupted.CheckpointID != "" || interrupted.Stop || !strings.Contains(out, "nothing was saved") {
		t.Errorf("Run = %v, said %q", err, out)
	}
}

func TestAnOrderToGoOnIsCarriedOutWhileTraining(t *testing.T) {
	agent := trainertest.New(t)
	agent.OnEvent = func(event *commonv1.Event) {
		if event.GetStep().GetStep() == 1 {
			agent.Order("d", &commonv1.CheckpointOrder{CheckpointId: "by-hand", After: commonv1.AfterCheckpoint_AFTER_CHECKPOINT_CONTINUE})
		}
	}
	agent.Start(t)
	if _, err := (launch{socket: agent.Socket, steps: 1000}).run(t, t.Context()); err != nil {
		t.Fatal(err)
	}
	if commits := agent.Commits(); len(commits) == 0 || commits[0].GetCheckpointId() != "by-hand" {
		t.Errorf("commits are %v", commits)
	}
}

func TestTheEndOfTheContextSavesAndStops(t *testing.T) {
	agent := trainertest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	agent.OnEvent = func(event *commonv1.Event) {
		if event.GetStep() != nil {
			cancel()
		}
	}
	agent.Start(t)
	_, err := launch{socket: agent.Socket, steps: 1 << 40}.run(t, ctx)
	interrupted, ok := errors.AsType[*Interrupted](err)
	if !ok || !interrupted.Stop || interrupted.CheckpointID == "" || interrupted.Failure != commonv1.FailureKind_FAILURE_KIND_PREEMPTED {
		t.Fatalf("Run = %+v", err)
	}
	if commits := agent.Commits(); len(commits) != 1 || commits[0].GetMetadata().GetStep() == 0 {
		t.Errorf("commits are %v", commits)
	}
	if events := agent.Events(); events[len(events)-1].GetRunEnded().GetOutcome() != commonv1.Outcome_OUTCOME_STOPPED {
		t.Error("nobody says that the unsupervised run is over")
	}
}

// absent gives a session whose agent has gone away.
func absent(t *testing.T) *trainer.Session {
	t.Helper()
	agent := trainertest.New(t)
	agent.Start(t)
	session, err := trainer.Connect(t.Context(), trainer.Config{Socket: agent.Socket, RunID: "digits-1"}, trainer.Deps{Log: testkit.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = session.Close(ctx)
	})
	agent.Stop()
	testkit.Eventually(t, "the loss of the agent", func() bool { return !session.Connected() })
	return session
}

func TestTrainingDoesNotWaitForAnAbsentAgent(t *testing.T) {
	saveNow := make(chan os.Signal, 1)
	saveNow <- syscall.SIGUSR1
	training := begin(t, nil)
	l := newLoop(LoopConfig{Steps: 5}, LoopDeps{Session: absent(t), Log: testkit.Logger(t), Out: io.Discard, SaveNow: saveNow}, training)
	l.progress = newProgress(io.Discard, training, 5)
	began := time.Now()
	if err := l.boundary(t.Context()); err != nil || len(saveNow) != 0 {
		t.Errorf("the boundary gives %v; a signal to save is no reason to end", err)
	}
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	if interrupted, ok := errors.AsType[*Interrupted](l.boundary(stopped)); !ok || interrupted.CheckpointID != "" || !interrupted.Stop {
		t.Errorf("the boundary gives %+v; a signal to stop ends the run", interrupted)
	}
	if elapsed := time.Since(began); elapsed > saveTimeout/2 {
		t.Errorf("training stood still for %s", elapsed)
	}
}

func TestReasonsAreWrittenAsWords(t *testing.T) {
	if got := word(commonv1.CheckpointReason_CHECKPOINT_REASON_PREEMPTION); got != "preemption" {
		t.Errorf("word is %q", got)
	}
}

func TestSaveNow(t *testing.T) {
	agent := trainertest.New(t)
	agent.Start(t)
	saveNow := make(chan os.Signal, 1)
	saveNow <- syscall.SIGUSR1
	if _, err := (launch{socket: agent.Socket, steps: 5, saveNow: saveNow}).run(t, t.Context()); err != nil {
		t.Fatal(err)
	}
	if commits := agent.Commits(); len(commits) != 2 || commits[0].GetMetadata().GetStep() != 0 {
		t.Errorf("commits are %v", commits)
	}
}

func TestAnInjectedDivergenceDoublesTheLoss(t *testing.T) {
	agent := trainertest.New(t)
	agent.Start(t)
	if _, err := (launch{socket: agent.Socket, steps: 320, faults: "diverge@300"}).run(t, t.Context()); err != nil {
		t.Fatal(err)
	}
	mean := func(from, to int64) float64 {
		sum := 0.0
		for _, event := range agent.Events() {
			if step := event.GetStep(); step != nil && step.GetStep() >= from && step.GetStep() < to {
				sum += step.GetLoss()
			}
		}
		return sum / float64(to-from)
	}
	before, after := mean(295, 300), mean(301, 306)
	t.Logf("mean loss %.3f before, %.3f after", before, after)
	if after < 2*before {
		t.Errorf("mean loss went from %.3f to %.3f only", before, after)
	}
}

func TestAnUnreadableCheckpointEndsTheAttemptWithItsReason(t *testing.T) {
	agent := rescuer(t)
	hit := launch{socket: agent.Socket, steps: 60, faults: "nan-grad@10", exitFile: filepath.Join(t.TempDir(), "exit.json")}
	_, _ = hit.run(t, t.Context())
	file := filepath.Join(agent.Directory("rescue"), StateFile)
	if err := os.Truncate(file, 1000); err != nil {
		t.Fatal(err)
	}
	hit.attempt = 1
	if _, err := hit.run(t, t.Context()); !fault.Is(err, fault.Corrupt) || !strings.Contains(err.Error(), "checkpoint rescue") {
		t.Errorf("Run = %v", err)
	}
	if data, _ := os.ReadFile(hit.exitFile); !strings.Contains(string(data), "CHECKPOINT_CORRUPT") {
		t.Errorf("exit report is %s", data)
	}
}

func TestALaterAttemptDoesNotBeginFromNothingWhileTheAgentIsAway(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	session, err := trainer.Connect(ctx, trainer.Config{Socket: filepath.Join(t.TempDir(), "none.sock"), RunID: "r", Attempt: 1}, trainer.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = session.Close(context.Background()) }()
	err = Run(ctx, LoopConfig{Training: Defaults(), Steps: 5}, LoopDeps{Session: session, Log: testkit.Logger(t), Out: io.Discard})
	if !fault.Is(err, fault.Unavailable) || !strings.Contains(fault.HintOf(err), "start the agent") {
		t.Errorf("Run = %v, hint %q", err, fault.HintOf(err))
	}
}

func TestLoopSettingsAreChecked(t *testing.T) {
	if _, err := (launch{}).run(t, t.Context()); !fault.Is(err, fault.Invalid) {
		t.Errorf("Run = %v, want invalid", err)
	}
}
