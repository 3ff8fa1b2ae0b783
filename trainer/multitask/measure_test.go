package multitask

import (
	"fmt"
	"io"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	"github.com/vigil-ml/vigil/trainer"
	"github.com/vigil-ml/vigil/trainer/trainertest"
)

// TestALookChangesNothing: measured steps make the same parameters.
func TestALookChangesNothing(t *testing.T) {
	plain, err := New(Defaults())
	if err != nil {
		t.Fatal(err)
	}
	looked, err := New(Defaults())
	if err != nil {
		t.Fatal(err)
	}
	for step := range 25 {
		plain.Compute()
		plain.Apply(1)
		looked.Compute()
		h := looked.applyMeasured(1)
		if h.updateRatio.Known != ((step+1)%measureEvery == 0) {
			t.Fatalf("step %d: update ratio %v", step+1, h.updateRatio)
		}
		if h.updateRatio.Known && (h.updateRatio.Value <= 0 || h.updateRatio.Value > 0.1 || h.parameterNorm.Value <= 0) {
			t.Errorf("step %d: %+v is not plausible", step+1, h)
		}
		if h.layers != nil && (len(h.layers) != 2 || h.layers[0].Dead.Value < 0 || h.layers[0].Dead.Value > 0.9) {
			t.Errorf("step %d: layers %v", step+1, h.layers)
		}
	}
	if plain.Digest() != looked.Digest() {
		t.Error("looking at the parameters changed them")
	}
}

func TestDeadShare(t *testing.T) {
	// Two rows of four units: the first and the last are zero in both.
	out := []float32{0, 1, 0, 0, 0, 0, 2, 0}
	if got := deadShare(out, 4); got != 0.5 {
		t.Errorf("dead share %v, want 0.5", got)
	}
}

func TestRateRestarts(t *testing.T) {
	agent := trainertest.New(t)
	agent.Start(t)
	session, err := trainer.Connect(t.Context(), trainer.Config{Socket: agent.Socket, RunID: "r"}, trainer.Deps{Log: testkit.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	l := newLoop(LoopConfig{RestartEvery: 100}, LoopDeps{Session: session}, begin(t, nil))
	for step, want := range map[int64]float64{1: 1, 51: 0.55, 101: 1, 151: 0.55} {
		if got := l.rate(step); math.Abs(got-want) > 1e-9 {
			t.Errorf("rate of step %d = %v, want %v", step, got, want)
		}
	}
	constant := newLoop(LoopConfig{Steps: 10}, LoopDeps{}, begin(t, nil))
	if l.rate(100) > 0.11 || constant.rate(5) != 1 {
		t.Errorf("rate of step 100 = %v, without restarts %v", l.rate(100), constant.rate(5))
	}
	if err := session.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if events := agent.Events(); len(events) != 1 || events[0].GetPhase().GetKind() != commonv1.PhaseKind_PHASE_KIND_LEARNING_RATE_RESTART {
		t.Errorf("events %v, want one restart", events)
	}
}

// TestTheTrainerDeclaresItsPauses and reports what its evaluations measured.
func TestTheTrainerDeclaresItsPauses(t *testing.T) {
	agent := trainertest.New(t)
	agent.Start(t)
	session, err := trainer.Connect(t.Context(), trainer.Config{Socket: agent.Socket, RunID: "r"}, trainer.Deps{Log: testkit.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	config := LoopConfig{Training: Defaults(), Steps: 20, CheckpointEvery: 15, EvaluateEvery: 10}
	if err := Run(t.Context(), config, LoopDeps{Session: session, Log: testkit.Logger(t), Out: io.Discard}); err != nil {
		t.Fatal(err)
	}
	if err := session.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range agent.Events() {
		if p := e.GetPhase(); p != nil {
			got = append(got, fmt.Sprintf("%d %d after %d", p.GetKind(), p.GetEdge(), p.GetStep()))
		}
		if v := e.GetEvaluation(); v != nil {
			got = append(got, fmt.Sprintf("evaluated after %d", v.GetStep()))
			if v.GetLoss() <= 0 || len(v.GetTaskLosses()) != 3 || len(v.GetMetrics()) != 8 {
				t.Errorf("evaluation %v", v)
			}
		}
	}
	want := []string{
		"1 1 after 10", "evaluated after 10", "1 2 after 10", "2 1 after 15", "2 2 after 15",
		"2 1 after 20", "2 2 after 20", "1 1 after 20", "evaluated after 20", "1 2 after 20",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
