package data

import (
	"math"
	"math/rand/v2"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas32"

	"github.com/vigil-ml/vigil/internal/fault"
)

const (
	toyInputs  = 250
	toyOutputs = 100
	toyCommon  = 10  // variance of the matrix that all tasks share
	toyOwn     = 3.5 // variance of what each task adds to it
	toyStream  = 5
	maxToy     = 1 << 20
)

// ToyConfig is GradNorm's toy problem.
type ToyConfig struct {
	// Scales is each task's sigma; at least one, over 0.
	Scales []float64 `yaml:"scales"`
	// Samples and Held are the numbers of samples to learn on and held out.
	Samples int `yaml:"samples"`
	Held    int `yaml:"held"`
	// Seed decides the problem and its samples.
	Seed uint64 `yaml:"seed"`
}

// DefaultToy is the two tasks of the paper.
func DefaultToy() ToyConfig {
	return ToyConfig{Scales: []float64{1, 100}, Samples: 10000, Held: 1000, Seed: 1}
}

// toy is regressions that differ in nothing but their scale and a small part of
// their matrix:
//
//	f_i(x) = sigma_i tanh((B + e_i) x)
//
// with 250 inputs and 100 outputs, B of variance 10 and e_i of variance 3.5. The
// inputs have length 1 on average, which the paper leaves open.
//
// Source: Chen et al., GradNorm, ICML 2018, section 4.
type toy struct {
	config  ToyConfig
	inputs  []float32
	targets [][]float32 // by task
	epochs  epochs
}

// NewToy makes the problem. It fails with [fault.Invalid] when a setting is
// wrong.
func NewToy(c ToyConfig) (Source, error) {
	if len(c.Scales) == 0 || c.Samples < 1 || c.Held < 1 || c.Samples > maxToy || c.Held > maxToy {
		return nil, fault.New(fault.Invalid, "make toy problem: %d scales, %d samples, %d held out; want at least 1 of each, and at most %d samples",
			len(c.Scales), c.Samples, c.Held, maxToy)
	}
	random := rand.New(rand.NewPCG(c.Seed, toyStream))
	rows := c.Samples + c.Held
	draw := func(n int, variance float64) []float32 {
		values, deviation := make([]float32, n), math.Sqrt(variance)
		for i := range values {
			values[i] = float32(random.NormFloat64() * deviation)
		}
		return values
	}
	t := &toy{config: c, inputs: draw(rows*toyInputs, 1.0/toyInputs), epochs: epochs{rows: c.Samples}}
	common := draw(toyInputs*toyOutputs, toyCommon)
	for _, scale := range c.Scales {
		if !(scale > 0) || math.IsInf(scale, 0) {
			return nil, fault.New(fault.Invalid, "make toy problem: a scale is %v; want a number over 0", scale)
		}
		matrix := draw(toyInputs*toyOutputs, toyOwn)
		for i, value := range common {
			matrix[i] += value
		}
		out := make([]float32, rows*toyOutputs)
		blas32.Gemm(blas.NoTrans, blas.NoTrans, 1, general(rows, toyInputs, t.inputs), general(toyInputs, toyOutputs, matrix),
			0, general(rows, toyOutputs, out))
		for i, value := range out {
			out[i] = float32(scale * math.Tanh(float64(value)))
		}
		t.targets = append(t.targets, out)
	}
	return t, nil
}

func general(rows, cols int, data []float32) blas32.General {
	return blas32.General{Rows: rows, Cols: cols, Stride: cols, Data: data}
}

// Shape names the tasks task-1 and so on.
func (t *toy) Shape() Shape {
	s := Shape{Inputs: toyInputs, Rows: t.config.Samples}
	for i := range t.targets {
		s.Targets = append(s.Targets, Target{Name: name(i), Outputs: toyOutputs, Unit: 1})
	}
	return s
}

// Picks is a row.
func (*toy) Picks() int { return 1 }

// Draw draws the rows of one epoch after the other.
func (t *toy) Draw(c *Cursor, picks []int32) { t.epochs.draw(c, picks) }

// Fill copies rows.
func (t *toy) Fill(b *Batch, picks []int32) {
	for i, row := range picks {
		t.copyRow(b, i, int(row))
	}
}

// Held gives the rows behind those to learn on.
func (t *toy) Held(b *Batch, from int) int {
	rows := min(b.Rows, t.config.Held-from)
	for i := range rows {
		t.copyRow(b, i, t.config.Samples+from+i)
	}
	return rows
}

func (t *toy) copyRow(b *Batch, to, row int) {
	copy(b.Inputs[to*toyInputs:(to+1)*toyInputs], t.inputs[row*toyInputs:])
	for k, targets := range t.targets {
		copy(b.Values[k][to*toyOutputs:(to+1)*toyOutputs], targets[row*toyOutputs:])
	}
}
