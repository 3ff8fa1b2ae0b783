package multitask

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/protocol"
	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
	"github.com/vigil-ml/vigil/trainer"
	"github.com/vigil-ml/vigil/trainer/trainertest"
)

// asked trains an attempt that is asked to do something otherwise.
func asked(t *testing.T, change func(*trainer.Config), steps int64) (*Training, error) {
	t.Helper()
	config := trainer.Config{RunID: "digits-1", Framework: Format}
	change(&config)
	session, err := trainer.Connect(t.Context(), config, trainer.Deps{Log: testkit.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = session.Close(context.WithoutCancel(t.Context())) }()
	training, err := New(Defaults())
	if err != nil {
		t.Fatal(err)
	}
	l := newLoop(LoopConfig{Training: Defaults(), Steps: steps},
		LoopDeps{Session: session, Log: testkit.Logger(t), Out: io.Discard}, training)
	if err := l.resume(t.Context()); err != nil {
		return training, err
	}
	l.recover()
	l.progress = newProgress(io.Discard, training, steps)
	return training, l.train(t.Context())
}

func TestBatchesAreLeftOutWhereRecoveryAsks(t *testing.T) {
	exitFile := filepath.Join(t.TempDir(), "exit.json")
	got, err := asked(t, func(c *trainer.Config) {
		c.ExitFile = exitFile
		c.Recovery = protocol.Recovery{SkipBatches: 2, SkipAtStep: 4}
	}, 6)
	if err != nil {
		t.Fatal(err)
	}
	// The same by hand: three steps, two batches thrown away, three steps.
	want, err := New(Defaults())
	if err != nil {
		t.Fatal(err)
	}
	for step := range 6 {
		if step == 3 {
			want.SkipBatch()
			want.SkipBatch()
		}
		want.Compute()
		want.Apply(1)
	}
	if got.Digest() != want.Digest() || got.DataPosition() != want.DataPosition() || got.DataPosition() != 8*int64(Defaults().Batch) {
		t.Errorf("parameters %.8s, position %d; by hand %.8s, %d", got.Digest(), got.DataPosition(), want.Digest(), want.DataPosition())
	}
	answer, ok := trainer.ReadAnswer(exitFile)
	if diff := cmp.Diff(trainer.Answer{Honoured: []string{"2 batches are left out at step 4"}}, answer); diff != "" || !ok {
		t.Errorf("the supervisor is told (-want +got):\n%s", diff)
	}
}

func TestTheLearningRateIsScaledWhereRecoveryAsks(t *testing.T) {
	agent := trainertest.New(t)
	agent.Start(t)
	_, err := asked(t, func(c *trainer.Config) {
		c.Socket, c.Recovery = agent.Socket, protocol.Recovery{LearningRateScale: 0.5}
	}, 3)
	if err != nil {
		t.Fatal(err)
	}
	answered := false
	for _, event := range agent.Events() {
		if s := event.GetStep(); s != nil && s.GetLearningRate() != Defaults().LearningRate/2 {
			t.Errorf("step %d had a learning rate of %g", s.GetStep(), s.GetLearningRate())
		}
		answered = answered || len(event.GetRecoveryAnswer().GetHonoured()) == 1
	}
	if !answered {
		t.Error("nobody was told that the rate is scaled")
	}
}

func TestRecoveryMayAskToBeginAnew(t *testing.T) {
	agent := trainertest.New(t)
	agent.Start(t)
	saved, err := asked(t, func(c *trainer.Config) { c.Socket = agent.Socket }, 4)
	if err != nil || len(agent.Commits()) != 1 {
		t.Fatalf("%v, %d commits", err, len(agent.Commits()))
	}
	for from, want := range map[string]int64{"": 4, trainer.FromNothing: 0} {
		resumedAt := int64(0)
		_, err := asked(t, func(c *trainer.Config) {
			c.Socket, c.Attempt, c.Recovery = agent.Socket, 1, protocol.Recovery{From: from}
		}, saved.Step())
		if err != nil {
			t.Fatal(err)
		}
		for _, event := range agent.Events() {
			if r := event.GetResumed(); r != nil && event.GetAttempt() == 1 {
				resumedAt = r.GetStep()
			}
		}
		if from == trainer.FromNothing {
			// Every step was made again: as many reports as the first time.
			made := 0
			for _, event := range agent.Events() {
				if event.GetStep() != nil && event.GetAttempt() == 1 {
					made++
				}
			}
			if made != int(saved.Step()) {
				t.Errorf("beginning anew made %d steps", made)
			}
			continue
		}
		if resumedAt != want {
			t.Errorf("from %q: resumed at step %d, want %d", from, resumedAt, want)
		}
	}
}

func TestAUserMayWantTheNewestCheckpointOrNone(t *testing.T) {
	agent := trainertest.New(t)
	agent.PassedOver = []*trainerv1.PassedOver{{CheckpointId: "newer", Reason: "digests disagree"}}
	agent.Start(t)
	exitFile := filepath.Join(t.TempDir(), "exit.json")
	_, err := asked(t, func(c *trainer.Config) { c.Socket, c.ExitFile, c.NoFallback = agent.Socket, exitFile, true }, 2)
	if !fault.Is(err, fault.Corrupt) {
		t.Errorf("the newest checkpoint is damaged and no other is wanted: %v", err)
	}
	if report := exitReport(t, exitFile); report.Failure != commonv1.FailureKind_FAILURE_KIND_CHECKPOINT_CORRUPT.String() || !report.Stop {
		t.Errorf("the supervisor is told %+v", report)
	}
	if _, err := asked(t, func(c *trainer.Config) { c.Socket = agent.Socket }, 2); err != nil {
		t.Errorf("another one will do: %v", err)
	}
}

func TestACheckpointMustNotBeLargerThanAllowed(t *testing.T) {
	agent := trainertest.New(t)
	agent.Start(t)
	for limit, commits := range map[int64]int{1000: 0, 1 << 30: 1} {
		before := len(agent.Commits())
		if _, err := asked(t, func(c *trainer.Config) { c.Socket, c.MaxCheckpointBytes = agent.Socket, limit }, 2); err != nil {
			t.Errorf("a checkpoint that is too large ends training: %v", err)
		}
		if got := len(agent.Commits()) - before; got != commits {
			t.Errorf("with %d bytes allowed %d checkpoints were handed over, want %d", limit, got, commits)
		}
	}
}

// exitReport reads what a process left for its supervisor.
func exitReport(t *testing.T, path string) protocol.ExitReport {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var report protocol.ExitReport
	if err := json.Unmarshal(text, &report); err != nil {
		t.Fatal(err)
	}
	return report
}

// The gradient with smoothed labels is that of the loss: a step along it changes
// the loss by what it promises.
func TestLabelSmoothing(t *testing.T) {
	config := Defaults()
	config.LabelSmoothing = 0.2
	smoothed, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := New(Defaults())
	if err != nil {
		t.Fatal(err)
	}
	one, two := smoothed.Compute(), plain.Compute()
	if !(one.Losses[0] != two.Losses[0]) || one.GradientNorm == two.GradientNorm {
		t.Errorf("smoothing changes nothing: %+v, %+v", one, two)
	}
	const step = 1e-4
	norm := one.GradientNorm
	before := one.Losses.Total()
	for i, g := range smoothed.net.Gradients {
		smoothed.net.Parameters[i] -= float32(step * float64(g) / norm)
	}
	after := smoothed.Compute().Losses.Total()
	if got, want := (before-after)/step, norm; got < 0.8*want || got > 1.2*want {
		t.Errorf("the loss falls by %g along the gradient, whose norm is %g", got, want)
	}
	config.LabelSmoothing = 1
	if _, err := New(config); !fault.Is(err, fault.Invalid) {
		t.Errorf("a smoothing of 1: %v", err)
	}
}
