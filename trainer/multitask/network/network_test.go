package network

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
)

func shape() Shape {
	return Shape{
		Inputs: 6, Trunk: Shared, Hidden: []int{8, 8, 5}, HeadInit: Xavier, Rows: 70,
		Heads: []Head{{Name: "a", Outputs: 3}, {Name: "b", Hidden: []int{4}, Outputs: 2}},
	}
}

func made(t testing.TB, s Shape) *Network {
	t.Helper()
	n, err := New(s, rand.New(rand.NewPCG(1, 2)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

type torchTensor struct {
	Name   string    `json:"name"`
	Rows   int       `json:"rows"`
	Cols   int       `json:"cols"`
	Values []float32 `json:"values"`
}

type torchHead struct {
	Name   string `json:"name"`
	Hidden int    `json:"hidden"`
}

type torchCase struct {
	Trunk     string        `json:"trunk"`
	Inputs    int           `json:"inputs"`
	Experts   int           `json:"experts"`
	Hidden    []int         `json:"hidden"`
	BatchNorm bool          `json:"batch_norm"`
	Heads     []torchHead   `json:"heads"`
	Tensors   []torchTensor `json:"tensors"`
	X         []float32     `json:"x"`
	Deltas    [][]float32   `json:"deltas"`

	shape Shape
}

type torchAnswer struct {
	Outputs   [][]float32 `json:"outputs"`
	Gradients [][]float32 `json:"gradients"`
	Evaluated [][]float32 `json:"evaluated"`
}

// TestAgainstPyTorch compares outputs, gradients and running statistics of every
// trunk with those of PyTorch's modules.
func TestAgainstPyTorch(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	normal := func(n int) []float32 {
		list := make([]float32, n)
		for i := range list {
			list[i] = float32(random.NormFloat64())
		}
		return list
	}
	var cases []torchCase
	for _, trunk := range []string{Shared, Residual, MMoE} {
		for _, norm := range []bool{false, true} {
			s := shape()
			s.Trunk, s.BatchNorm, s.Experts = trunk, norm, 3
			c := torchCase{Trunk: trunk, Inputs: s.Inputs, Experts: 3, Hidden: s.Hidden, BatchNorm: norm, shape: s, X: normal(s.Rows * s.Inputs)}
			for _, head := range s.Heads {
				c.Heads = append(c.Heads, torchHead{head.Name, len(head.Hidden)})
				c.Deltas = append(c.Deltas, normal(s.Rows*head.Outputs))
			}
			n := made(t, s)
			for i := range n.Parameters { // biases too
				n.Parameters[i] += float32(random.NormFloat64() / 10)
			}
			for _, tensor := range n.Tensors {
				c.Tensors = append(c.Tensors, torchTensor{tensor.Name, tensor.Rows, tensor.Cols, tensor.Of(n.Parameters)})
			}
			cases = append(cases, c)
		}
	}
	var answers []torchAnswer
	testkit.AskTorch(t, "testdata/reference.py", cases, &answers)
	if len(answers) != len(cases) {
		t.Fatalf("%d answers for %d cases", len(answers), len(cases))
	}
	for i, want := range answers {
		got := answer(t, cases[i])
		agree(t, cases[i], "output", got.Outputs, want.Outputs)
		agree(t, cases[i], "gradient", got.Gradients, want.Gradients)
		agree(t, cases[i], "output in evaluation", got.Evaluated, want.Evaluated)
	}
}

func answer(t *testing.T, c torchCase) (a torchAnswer) {
	t.Helper()
	n, rows := made(t, c.shape), c.shape.Rows
	for i, tensor := range n.Tensors {
		copy(tensor.Of(n.Parameters), c.Tensors[i].Values)
	}
	outputs := func() (list [][]float32) {
		for i := range c.Heads {
			list = append(list, append([]float32(nil), n.Outputs(i)...))
		}
		return list
	}
	n.Forward(c.X, rows, Pass{Training: true})
	a.Outputs = outputs()
	for i, delta := range c.Deltas {
		copy(n.Delta(i), delta)
	}
	n.BackwardHeads(rows)
	n.BackwardTrunk(rows, []int{0, 1}, false)
	for _, tensor := range n.Tensors {
		a.Gradients = append(a.Gradients, append([]float32(nil), tensor.Of(n.Gradients)...))
	}
	n.Commit()
	n.Forward(c.X, rows, Pass{})
	a.Evaluated = outputs()
	return a
}

func agree(t *testing.T, c torchCase, what string, got, want [][]float32) {
	t.Helper()
	for i := range want {
		for k := range want[i] {
			if off := math.Abs(float64(got[i][k] - want[i][k])); off > 1e-4*max(1, math.Abs(float64(want[i][k]))) {
				t.Fatalf("%s, norm %v: %s %d, value %d is %v, PyTorch has %v", c.Trunk, c.BatchNorm, what, i, k, got[i][k], want[i][k])
			}
		}
	}
}

// TestDropout: about the share that was asked for is dropped, the mean stays, the
// same pass drops the same, others drop others, and evaluation drops nothing.
func TestDropout(t *testing.T) {
	const size, rows = 100, 100
	d := newDropout(3, 0.3, size)
	d.mask = make([]float32, size*rows)
	drop := func(pass Pass) []float32 {
		in := make([]float32, size*rows)
		for i := range in {
			in[i] = 1
		}
		return d.forward(in, rows, pass)
	}
	count := func(out []float32) (dropped, sum float64) {
		for _, value := range out {
			sum += float64(value)
			if value == 0 {
				dropped++
			}
		}
		return dropped / size / rows, sum / size / rows
	}
	one := drop(Pass{Training: true, Seed: 1, Step: 5})
	if dropped, mean := count(one); math.Abs(dropped-0.3) > 0.02 || math.Abs(mean-1) > 0.03 {
		t.Errorf("%.3f are dropped, the mean is %.3f", dropped, mean)
	}
	if diff := cmp.Diff(one, drop(Pass{Training: true, Seed: 1, Step: 5})); diff != "" {
		t.Error("the same pass drops others")
	}
	for _, pass := range []Pass{{Seed: 2, Step: 5}, {Seed: 1, Step: 6}, {Seed: 1, Step: 5, Part: 1}} {
		pass.Training = true
		if cmp.Equal(one, drop(pass)) {
			t.Errorf("%+v drops the same", pass)
		}
	}
	if dropped, mean := count(drop(Pass{Seed: 1, Step: 5})); dropped != 0 || mean != 1 {
		t.Errorf("in evaluation %v are dropped, the mean is %v", dropped, mean)
	}
}

// TestStatisticsCountWhenCommitted: passes that are taken back leave no trace.
func TestStatisticsCountWhenCommitted(t *testing.T) {
	s := shape()
	s.BatchNorm = true
	n := made(t, s)
	x := make([]float32, s.Rows*s.Inputs)
	for i := range x {
		x[i] = float32(i % 7)
	}
	before := append([]float32(nil), n.Running...)
	n.Forward(x, s.Rows, Pass{Training: true})
	n.Rollback()
	n.Commit()
	if diff := cmp.Diff(before, n.Running); diff != "" {
		t.Errorf("a pass that was taken back: %s", diff)
	}
	n.Forward(x, s.Rows, Pass{})
	n.Commit()
	if diff := cmp.Diff(before, n.Running); diff != "" {
		t.Errorf("evaluation: %s", diff)
	}
	n.Forward(x, s.Rows, Pass{Training: true})
	n.Commit()
	if cmp.Equal(before, n.Running) {
		t.Error("a pass that counts changes nothing")
	}
}

func TestInitialization(t *testing.T) {
	s := shape()
	s.Inputs, s.Hidden = 200, []int{300}
	s.Heads = []Head{{Name: "a", Outputs: 100}}
	for init, wantHead := range map[string]float64{Xavier: 2.0 / 400, He: 2.0 / 300} {
		s.HeadInit = init
		n := made(t, s)
		for name, want := range map[string]float64{"encoder.0.weight": 2.0 / 200, "encoder.0.bias": 0, "a.weight": wantHead, "a.bias": 0} {
			for _, tensor := range n.Tensors {
				if tensor.Name != name {
					continue
				}
				square := 0.0
				for _, w := range tensor.Of(n.Parameters) {
					square += float64(w) * float64(w) / float64(tensor.Size())
				}
				if math.Abs(square-want) > 0.03*want {
					t.Errorf("%s, %s: variance %v, want %v", init, name, square, want)
				}
			}
		}
	}
}

func TestWrongShapes(t *testing.T) {
	for name, change := range map[string]func(*Shape){
		"inputs":  func(s *Shape) { s.Inputs = 0 },
		"layers":  func(s *Shape) { s.Hidden = nil },
		"width":   func(s *Shape) { s.Hidden = []int{0} },
		"head":    func(s *Shape) { s.Heads[1].Hidden = []int{1 << 20} },
		"heads":   func(s *Shape) { s.Heads = nil },
		"experts": func(s *Shape) { s.Trunk, s.Experts = MMoE, 1 },
		"dropout": func(s *Shape) { s.Dropout = math.NaN() },
		"init":    func(s *Shape) { s.HeadInit = "zero" },
		"trunk":   func(s *Shape) { s.Trunk = "" },
	} {
		s := shape()
		change(&s)
		if _, err := New(s, rand.New(rand.NewPCG(1, 1))); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: New = %v", name, err)
		}
	}
}
