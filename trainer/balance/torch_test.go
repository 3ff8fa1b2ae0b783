package balance

import (
	"math/rand/v2"
	"testing"

	"github.com/vigil-ml/vigil/internal/testkit"
)

type torchStep struct {
	Losses    []float64   `json:"losses"`
	Gradients [][]float64 `json:"gradients"`
	Order     [][]int     `json:"order"` // of the other tasks, for PCGrad
}

type torchCase struct {
	Method     string      `json:"method"`
	Tasks      int         `json:"tasks"`
	Weights    []float64   `json:"weights"`
	EpochSteps int         `json:"epoch_steps"`
	Steps      []torchStep `json:"steps"`

	settings string
	seen     []Observation
}

type torchAnswer struct {
	Weights []float64 `json:"weights"`
	Update  []float64 `json:"update"`
}

// TestAgainstPyTorch compares weights and updates of every method, step by step,
// with those of a second implementation on tensors. Random loss weighting has
// other random numbers there; what it draws is held by tests of its own.
func TestAgainstPyTorch(t *testing.T) {
	var cases []torchCase
	for _, name := range Methods().Names() {
		if name == "random" {
			continue
		}
		for n := 2; n <= 4; n++ {
			cases = append(cases, torchCaseOf(t, name, n))
		}
	}
	var answers [][]torchAnswer
	testkit.AskTorch(t, "testdata/reference.py", cases, &answers)
	if len(answers) != len(cases) {
		t.Fatalf("%d answers for %d cases", len(answers), len(cases))
	}
	for i, steps := range answers {
		c := cases[i]
		b := made(t, c.Method, c.settings, tasks(c.Tasks))
		for k, want := range steps {
			got := weigh(t, b, c.seen[k])
			compare(t, c.Method, k, "weight", got, want.Weights)
			compare(t, c.Method, k, "update", along(got, c.Steps[k].Gradients), want.Update)
		}
		if len(steps) != len(c.Steps) {
			t.Fatalf("%s: PyTorch answers %d steps of %d", c.Method, len(steps), len(c.Steps))
		}
	}
}

// compare holds the agreement that is promised: 1e-5 of the value, or of 1.
func compare(t *testing.T, method string, step int, what string, got, want []float64) {
	t.Helper()
	for i := range want {
		if !near(got[i], want[i], 1e-5) {
			t.Fatalf("%s, %d tasks, step %d: %s %d is %v, PyTorch has %v", method, len(got), step+1, what, i, got[i], want[i])
		}
	}
}

func torchCaseOf(t *testing.T, name string, n int) torchCase {
	t.Helper()
	c := torchCase{Method: name, Tasks: n, EpochSteps: 3, settings: "{}"}
	switch name {
	case "dwa":
		c.settings = "{epoch_steps: 3}"
	case "static":
		c.settings = "{weights: {a: 0.25, b: 3}}"
		c.Weights = []float64{0.25, 3, 1, 1}[:n]
	}
	source, shuffles := rand.New(rand.NewPCG(uint64(n), 31)), newDraws(7) // the seed of made
	steps := int64(12)
	if b := made(t, name, c.settings, tasks(n)); b.Needs() == Gram {
		steps = 4 // each stands alone, and costs PyTorch a search
	}
	for step := range steps {
		seen, gradients := seenAt(step+1, n, source)
		order := make([][]int, n)
		m := pcgrad{order: make([]int, n)}
		random := shuffles.of(step + 1)
		for i := range order {
			m.shuffle(random.IntN)
			order[i] = append([]int(nil), m.order...)
		}
		c.seen = append(c.seen, seen)
		c.Steps = append(c.Steps, torchStep{Losses: seen.Losses, Gradients: gradients, Order: order})
	}
	return c
}
