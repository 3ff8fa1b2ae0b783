package weigh

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/internal/fault"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
	"github.com/vigil-ml/vigil/trainer/balance"
)

// request is what a process with two tasks says at a step.
func request(method string, step int64, state []byte) *trainerv1.WeightsRequest {
	fall := float64(step)
	return &trainerv1.WeightsRequest{
		Method: method, Seed: 3, Step: step, State: state,
		Tasks: []*trainerv1.WeighedTask{
			{Name: "left", Loss: 2 / (1 + 0.5*fall), GradientNorm: 1 + 0.1*fall},
			{Name: "ink", Kind: trainerv1.TaskKind_TASK_KIND_REGRESSION, Loss: 30 / (1 + 0.1*fall), GradientNorm: 9 - 0.1*fall},
		},
		DotProducts: []float64{(1 + 0.1*fall) * (1 + 0.1*fall), -0.5, -0.5, (9 - 0.1*fall) * (9 - 0.1*fall)},
	}
}

func ask(t testing.TB, w *Weigher, key string, in *trainerv1.WeightsRequest) *trainerv1.WeightsResponse {
	t.Helper()
	out, err := w.Weigh(key, in)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestNoAgentIsMissed: for every method, a process that carries its state gets
// the same weights whether the weigher is the same all along, is another after
// each step, or serves a second process in between.
func TestNoAgentIsMissed(t *testing.T) {
	for _, method := range balance.Methods().Names() {
		whole := New()
		var state []byte
		for step := range int64(25) {
			remembered := ask(t, whole, "a", request(method, step+1, nil))
			ask(t, whole, "b", request("gradnorm", 2*step+1, nil))
			carried := ask(t, New(), "a", request(method, step+1, state))
			if diff := cmp.Diff(remembered.Weights, carried.Weights); diff != "" {
				t.Fatalf("%s, step %d: %s", method, step+1, diff)
			}
			if (step == 0) != remembered.Began || (step == 0) != carried.Began {
				t.Errorf("%s, step %d: began is %v and %v", method, step+1, remembered.Began, carried.Began)
			}
			state = carried.State
		}
	}
}

// TestItGoesBackWithTheTrainer: a state from before has the weigher go back,
// whatever it learnt since.
func TestItGoesBackWithTheTrainer(t *testing.T) {
	w := New()
	var states [][]byte
	var weights [][]float64
	for step := range int64(10) {
		out := ask(t, w, "a", request("gradnorm", step+1, nil))
		states, weights = append(states, out.State), append(weights, out.Weights)
	}
	for step := int64(5); step < 10; step++ {
		out := ask(t, w, "a", request("gradnorm", step+1, states[step-1]))
		if diff := cmp.Diff(weights[step], out.Weights); diff != "" {
			t.Errorf("step %d again: %s", step+1, diff)
		}
	}
}

func TestARepeatedRequestIsLearntFromOnce(t *testing.T) {
	w := New()
	ask(t, w, "a", request("gradnorm", 1, nil))
	once, again := ask(t, w, "a", request("gradnorm", 2, nil)), ask(t, w, "a", request("gradnorm", 2, nil))
	if diff := cmp.Diff(once.State, again.State); diff != "" {
		t.Errorf("the state after a repeat: %s", diff)
	}
}

func TestCosine(t *testing.T) {
	in := request("equal", 1, nil)
	in.DotProducts = []float64{1, -1, -1, 4}
	if got := ask(t, New(), "a", in); got.GradientCosine == nil || *got.GradientCosine != -0.5 {
		t.Errorf("cosine %v, want -0.5", got.GradientCosine)
	}
	in.DotProducts = nil
	if got := ask(t, New(), "a", in); got.GradientCosine != nil {
		t.Errorf("cosine %v without dot products", *got.GradientCosine)
	}
}

func TestWrongRequestsAreNamedAndTeachNothing(t *testing.T) {
	w := New()
	good := ask(t, w, "a", request("gradnorm", 1, nil))
	for want, change := range map[string]func(*trainerv1.WeightsRequest){
		"there are equal, static":  func(in *trainerv1.WeightsRequest) { in.Method = "gradnrom" },
		"step is 0":                func(in *trainerv1.WeightsRequest) { in.Step = 0 },
		"there are 0; want 1":      func(in *trainerv1.WeightsRequest) { in.Tasks = nil },
		"needs a name":             func(in *trainerv1.WeightsRequest) { in.Tasks[1].Name = "" },
		"the name of another":      func(in *trainerv1.WeightsRequest) { in.Tasks[1].Name = "left" },
		"is not a usable number":   func(in *trainerv1.WeightsRequest) { in.Tasks[1].GradientNorm = -1 },
		"alpha is -1":              func(in *trainerv1.WeightsRequest) { in.Settings = `{"alpha": -1}` },
		"alhpa":                    func(in *trainerv1.WeightsRequest) { in.Settings = "alhpa: 1" },
		"is of another method":     func(in *trainerv1.WeightsRequest) { in.Method, in.State = "uncertainty", good.State },
		"settings has 20000 bytes": func(in *trainerv1.WeightsRequest) { in.Settings = strings.Repeat(" ", 20000) },
		"of 1 bytes":               func(in *trainerv1.WeightsRequest) { in.State = []byte{1} },
	} {
		in := request("gradnorm", 2, nil)
		change(in)
		if _, err := w.Weigh("a", in); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("Weigh = %v, want an invalid fault with %q", err, want)
		}
	}
	fresh := New()
	ask(t, fresh, "a", request("gradnorm", 1, nil))
	want := ask(t, fresh, "a", request("gradnorm", 2, nil))
	if diff := cmp.Diff(want.Weights, ask(t, w, "a", request("gradnorm", 2, nil)).Weights); diff != "" {
		t.Errorf("wrong requests were learnt from: %s", diff)
	}
}

// TestWhatCannotBeLearntFromLeavesTheStateThatWasCarried: the next request is
// answered as one that the weigher never saw the failed one before.
func TestWhatCannotBeLearntFromLeavesTheStateThatWasCarried(t *testing.T) {
	w := New()
	first := ask(t, w, "a", request("gradnorm", 1, nil))
	second := ask(t, w, "a", request("gradnorm", 2, nil))
	wrong := request("gradnorm", 2, first.State)
	wrong.Tasks[0].GradientNorm = -1
	if _, err := w.Weigh("a", wrong); !fault.Is(err, fault.Invalid) {
		t.Fatalf("Weigh = %v", err)
	}
	want := ask(t, New(), "a", request("gradnorm", 3, second.State))
	if diff := cmp.Diff(want.Weights, ask(t, w, "a", request("gradnorm", 3, second.State)).Weights); diff != "" {
		t.Errorf("with the state of the answer before: %s", diff)
	}
	fresh := New()
	wrong.State = nil
	if _, err := fresh.Weigh("b", wrong); !fault.Is(err, fault.Invalid) {
		t.Fatalf("Weigh = %v", err)
	}
	if out := ask(t, fresh, "b", request("gradnorm", 2, nil)); !out.Began {
		t.Error("nothing was learnt before, and yet the answer is of one that had begun")
	}
}

func TestItForgetsWhoIsSilentLongest(t *testing.T) {
	w := New()
	for i := range maxKept {
		ask(t, w, fmt.Sprint(i), request("gradnorm", 1, nil))
	}
	ask(t, w, "0", request("gradnorm", 2, nil))
	ask(t, w, "new", request("gradnorm", 1, nil))
	if len(w.kept) != maxKept || w.kept["1"] != nil || w.kept["0"] == nil || w.kept["new"] == nil {
		t.Errorf("%d processes are kept; 1 should be forgotten, 0 and the new one kept", len(w.kept))
	}
}

// FuzzState gives arbitrary bytes as a state: refused, or finite weights.
func FuzzState(f *testing.F) {
	w := New()
	first := ask(f, w, "a", request("gradnorm", 1, nil))
	f.Add(first.State)
	f.Add([]byte{1, 2, 3, 4})
	f.Fuzz(func(t *testing.T, state []byte) {
		out, err := New().Weigh("a", request("gradnorm", 2, state))
		if err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Errorf("Weigh = %v", err)
			}
			return
		}
		if len(out.Weights) != 2 {
			t.Errorf("%d weights", len(out.Weights))
		}
	})
}

func BenchmarkWeigh(b *testing.B) {
	for _, method := range balance.Methods().Names() {
		b.Run(method, func(b *testing.B) {
			w := New()
			var state []byte
			for step := int64(1); b.Loop(); step++ {
				in := request(method, 1+step%80, state)
				state = ask(b, w, "a", in).State
			}
		})
	}
}
