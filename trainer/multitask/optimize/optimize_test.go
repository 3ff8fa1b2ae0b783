package optimize

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
)

type torchCase struct {
	Kind       string         `json:"kind"`
	Options    map[string]any `json:"options"`
	Parameters []float32      `json:"parameters"`
	Gradients  [][]float32    `json:"gradients"`

	change func(*Config)
}

func torchCases() []torchCase {
	return []torchCase{
		{Kind: SGD, Options: map[string]any{"lr": 0.1}, change: func(c *Config) { c.Momentum = 0 }},
		{Kind: SGD, Options: map[string]any{"lr": 0.1, "momentum": 0.9, "weight_decay": 0.02}, change: func(c *Config) { c.WeightDecay = 0.02 }},
		{Kind: SGD, Options: map[string]any{"lr": 0.1, "momentum": 0.8, "nesterov": true}, change: func(c *Config) { c.Momentum, c.Nesterov = 0.8, true }},
		{Kind: Adam, Options: map[string]any{"lr": 0.1}, change: func(*Config) {}},
		{Kind: Adam, Options: map[string]any{"lr": 0.1, "betas": []float64{0.8, 0.95}, "weight_decay": 0.02},
			change: func(c *Config) { c.Beta1, c.Beta2, c.WeightDecay = 0.8, 0.95, 0.02 }},
		{Kind: AdamW, Options: map[string]any{"lr": 0.1, "weight_decay": 0.02}, change: func(c *Config) { c.WeightDecay = 0.02 }},
	}
}

// TestAgainstPyTorch makes the same updates with PyTorch's optimizers.
func TestAgainstPyTorch(t *testing.T) {
	const size, steps, rate = 7, 20, 0.1
	random := rand.New(rand.NewPCG(1, 1))
	draw := func() []float32 {
		list := make([]float32, size)
		for i := range list {
			list[i] = float32(random.NormFloat64())
		}
		return list
	}
	cases := torchCases()
	for i := range cases {
		cases[i].Parameters = draw()
		for range steps {
			cases[i].Gradients = append(cases[i].Gradients, draw())
		}
	}
	var answers [][][]float32
	testkit.AskTorch(t, "testdata/reference.py", cases, &answers)
	if len(answers) != len(cases) {
		t.Fatalf("%d answers for %d cases", len(answers), len(cases))
	}
	for i, want := range answers {
		config := Defaults()
		config.Kind = cases[i].Kind
		cases[i].change(&config)
		o, err := New(config, size)
		if err != nil {
			t.Fatal(err)
		}
		p := append([]float32(nil), cases[i].Parameters...)
		for step := range want {
			o.Apply(p, append([]float32(nil), cases[i].Gradients[step]...), int64(step+1), rate)
			for k := range p {
				if math.Abs(float64(p[k]-want[step][k])) > 1e-5 {
					t.Fatalf("%s %v, step %d: parameter %d is %v, PyTorch has %v", config.Kind, cases[i].Options, step+1, k, p[k], want[step][k])
				}
			}
		}
	}
}

func TestWrongConfigurations(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"kind":     func(c *Config) { c.Kind = "lion" },
		"momentum": func(c *Config) { c.Momentum = 1 },
		"beta1":    func(c *Config) { c.Beta1 = -1 },
		"epsilon":  func(c *Config) { c.Epsilon = 0 },
		"decay":    func(c *Config) { c.WeightDecay = math.NaN() },
	} {
		config := Defaults()
		change(&config)
		if _, err := New(config, 1); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: New = %v", name, err)
		}
	}
}

func TestClip(t *testing.T) {
	g := []float32{3, 4}
	Clip(g, 5, 0)
	Clip(g, 5, 5)
	Clip(g, math.NaN(), 1)
	if g[0] != 3 || g[1] != 4 {
		t.Errorf("what is within the bound, or not a number, is changed: %v", g)
	}
	if Clip(g, 5, 1); math.Abs(float64(g[0])-0.6) > 1e-6 || math.Abs(float64(g[1])-0.8) > 1e-6 {
		t.Errorf("clipped to %v, want 0.6 and 0.8", g)
	}
}

func TestSchedules(t *testing.T) {
	const total = 110
	for _, c := range []struct {
		schedule Schedule
		step     int64
		want     float64
	}{
		{Schedule{Kind: Constant}, 1, 1},
		{Schedule{Kind: Constant, WarmupSteps: 9}, 1, 0.1},
		{Schedule{Kind: Constant, WarmupSteps: 9}, 9, 0.9},
		{Schedule{Kind: Constant, WarmupSteps: 9}, 10, 1},
		{Schedule{Kind: Linear, WarmupSteps: 9}, 10, 1},
		{Schedule{Kind: Linear, WarmupSteps: 9}, 60, 0.5},
		{Schedule{Kind: Linear, WarmupSteps: 9, Floor: 0.2}, 110, 0.2},
		{Schedule{Kind: Cosine, WarmupSteps: 9}, 60, 0.5},
		{Schedule{Kind: Cosine, WarmupSteps: 9}, 35, (1 + math.Sqrt2/2) / 2},
		{Schedule{Kind: Cosine, Floor: 0.1}, 110, 0.1},
		{Schedule{Kind: Cosine, Floor: 0.1}, 500, 0.1},
		{Schedule{Kind: Steps, EverySteps: 50, Factor: 0.1}, 50, 1},
		{Schedule{Kind: Steps, EverySteps: 50, Factor: 0.1}, 101, 0.01},
	} {
		if got := c.schedule.At(c.step, total); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%+v at step %d: %v, want %v", c.schedule, c.step, got, c.want)
		}
	}
	if got := (Schedule{Kind: Cosine}).At(1, 1); got != 1 {
		t.Errorf("the only step gets %v", got)
	}
}
