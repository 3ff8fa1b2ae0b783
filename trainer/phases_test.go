package trainer_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	"github.com/vigil-ml/vigil/trainer"
	"github.com/vigil-ml/vigil/trainer/trainertest"
)

// TestPhasesAndEvaluationsArriveBetweenTheSteps that they belong to.
func TestPhasesAndEvaluationsArriveBetweenTheSteps(t *testing.T) {
	agent := trainertest.New(t)
	agent.Start(t)
	s := connect(t, agent, nil)
	s.Change(commonv1.PhaseKind_PHASE_KIND_DATA_CHANGE) // before any step
	s.Step(trainer.StepReport{Step: 7})
	end := s.Phase(commonv1.PhaseKind_PHASE_KIND_EVALUATION)
	metrics := map[string]float64{"accuracy": 0.5}
	s.Evaluated(trainer.Evaluation{Loss: trainer.Known(math.Inf(1)), Metrics: metrics, Tasks: []trainer.Task{
		{Name: "left", Loss: trainer.Known(2.0)}, {Name: "right"},
	}})
	metrics["accuracy"] = 0 // it was copied
	end()
	end()
	s.Step(trainer.StepReport{Step: 8})
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range agent.Events() {
		switch body := e.GetBody().(type) {
		case *commonv1.Event_Step:
			got = append(got, fmt.Sprint("step ", body.Step.GetStep()))
		case *commonv1.Event_Phase:
			got = append(got, fmt.Sprint(body.Phase.GetKind(), " ", body.Phase.GetEdge(), " ", body.Phase.GetStep()))
		case *commonv1.Event_Evaluation:
			b := body.Evaluation
			got = append(got, fmt.Sprint("evaluation ", b.GetStep(), " ", b.GetLoss(), " ", b.GetTaskLosses(), " ", b.GetMetrics()))
		}
	}
	want := []string{
		"PHASE_KIND_DATA_CHANGE PHASE_EDGE_BEGIN 0", "step 7", "PHASE_KIND_EVALUATION PHASE_EDGE_BEGIN 7",
		"evaluation 7 +Inf map[left:2] map[accuracy:0.5]", "PHASE_KIND_EVALUATION PHASE_EDGE_END 7", "step 8",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestHealthArrives: what was measured of the parameters and units, and nothing
// of what was not.
func TestHealthArrives(t *testing.T) {
	agent := trainertest.New(t)
	agent.Start(t)
	s := connect(t, agent, nil)
	layers := []trainer.Layer{{Name: "a", Dead: trainer.Known(0.25)}, {Name: "b", Saturated: trainer.Known(0.0)}}
	s.Step(trainer.StepReport{
		Step: 1, Layers: layers, UpdateRatio: trainer.Known(1e-3), ParameterNorm: trainer.Known(math.NaN()),
		NonFiniteParameters: trainer.Known(int64(3)), GradientCosine: trainer.Known(-1.0), GPUReservedBytes: trainer.Known(int64(9)),
	})
	layers[0].Dead = trainer.Known(1.0) // it was copied
	s.Step(trainer.StepReport{Step: 2})
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	events := agent.Events()
	one, two := events[0].GetStep(), events[1].GetStep()
	if one.GetUpdateRatio() != 1e-3 || !math.IsNaN(one.GetParameterNorm()) || one.GetNonfiniteParameters() != 3 ||
		one.GetGradientCosine() != -1 || one.GetGpuMemoryReservedBytes() != 9 {
		t.Errorf("step 1 = %v", one)
	}
	if diff := cmp.Diff(map[string]float64{"a": 0.25}, one.GetDeadRatios()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]float64{"b": 0}, one.GetSaturatedRatios()); diff != "" {
		t.Error(diff)
	}
	if two.UpdateRatio != nil || two.ParameterNorm != nil || two.NonfiniteParameters != nil || len(two.GetDeadRatios()) > 0 {
		t.Errorf("step 2 = %v", two)
	}
}
