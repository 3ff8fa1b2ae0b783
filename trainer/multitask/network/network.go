// Package network is the model of a multi-task problem: a trunk that all tasks
// share and a head for each, on float32 and gonum's BLAS.
//
// A [Network] computes; what is lost, how the tasks weigh and what an optimizer
// does with the gradients is its user's. All memory is made once, for the
// largest batch: passes allocate nothing. On one architecture results are the
// same bit for bit for the same parameters, inputs and [Pass], whatever
// GOMAXPROCS is.
package network

import (
	"math"
	"math/rand/v2"
	"strconv"

	"github.com/vigil-ml/vigil/internal/fault"
)

// Kinds of trunks.
const (
	Shared   = "shared"   // one encoder for all tasks (Caruana, 1997)
	Residual = "residual" // the same, with identity around layers that keep their width (He et al., 2016)
	MMoE     = "mmoe"     // experts, mixed by a gate for each task (Ma et al., KDD 2018)
)

// Initializations of the heads' last layers; all else is drawn as He et al.
// (2015) have it for layers with a ReLU behind them, biases are 0.
const (
	Xavier = "xavier" // variance 2/(inputs + outputs), for layers without a ReLU (Glorot and Bengio, 2010)
	He     = "he"     // variance 2/inputs
)

// Head is what one task has for itself.
type Head struct {
	Name    string
	Hidden  []int // widths of layers before the last; may be empty
	Outputs int   // at least 1
}

// Shape is what a network is made of.
type Shape struct {
	Inputs    int
	Trunk     string
	Hidden    []int   // widths of the trunk's layers, or of each expert's; at least one
	Experts   int     // of MMoE; at least 2
	BatchNorm bool    // behind each layer of the trunk
	Dropout   float64 // share of units dropped behind each layer of the trunk; 0 to 0.99
	HeadInit  string  // Xavier or He
	Heads     []Head
	Rows      int // of the largest batch
}

const (
	maxWidth    = 1 << 14
	maxLayers   = 64
	mostDropout = 0.99
)

// check refuses shapes that cannot be.
func (s Shape) check() error {
	switch {
	case s.Inputs < 1 || s.Rows < 1 || len(s.Heads) == 0:
		return fault.New(fault.Invalid, "make network: %d inputs, %d rows, %d heads; want at least 1 of each", s.Inputs, s.Rows, len(s.Heads))
	case len(s.Hidden) == 0 || len(s.Hidden) > maxLayers:
		return fault.New(fault.Invalid, "make network: %d shared layers; want 1 to %d", len(s.Hidden), maxLayers)
	case s.Trunk != Shared && s.Trunk != Residual && s.Trunk != MMoE:
		return fault.New(fault.Invalid, "make network: trunk is %q; want %s, %s or %s", s.Trunk, Shared, Residual, MMoE)
	case s.Trunk == MMoE && (s.Experts < 2 || s.Experts > maxLayers):
		return fault.New(fault.Invalid, "make network: %d experts; want 2 to %d", s.Experts, maxLayers)
	case !(s.Dropout >= 0 && s.Dropout <= mostDropout):
		return fault.New(fault.Invalid, "make network: dropout is %v; want 0 to %v", s.Dropout, mostDropout)
	case s.HeadInit != Xavier && s.HeadInit != He:
		return fault.New(fault.Invalid, "make network: head initialization is %q; want %s or %s", s.HeadInit, Xavier, He)
	}
	widths := append([]int(nil), s.Hidden...)
	for _, head := range s.Heads {
		widths = append(append(widths, head.Hidden...), head.Outputs)
	}
	for _, width := range widths {
		if width < 1 || width > maxWidth {
			return fault.New(fault.Invalid, "make network: a layer has %d units; want 1 to %d", width, maxWidth)
		}
	}
	return nil
}

// Tensor is one named piece of a flat list of numbers.
type Tensor struct {
	Name       string
	Offset     int
	Rows, Cols int // inputs and outputs of a weight; one row otherwise
}

// Size is the number of values.
func (t Tensor) Size() int { return t.Rows * t.Cols }

// Of gives the tensor's part of a flat list.
func (t Tensor) Of(flat []float32) []float32 { return flat[t.Offset : t.Offset+t.Size()] }

// Pass says what one forward pass is for.
type Pass struct {
	// Training has batch statistics used and noted, and units dropped.
	Training bool
	// Seed, Step and Part decide which: the same units in the same pass, so that a
	// training that resumes needs no other random state for them.
	Seed uint64
	Step int64
	Part int
}

// Network is parameters, their gradients, and the room that one batch needs. It
// is for one goroutine.
type Network struct {
	// Parameters, Gradients and Running (of batch normalization) are flat; Tensors
	// and Buffers say what lies where. Shared is how many of the parameters, from
	// the first, all tasks share.
	Parameters, Gradients []float32
	Tensors               []Tensor
	Running               []float32
	Buffers               []Tensor
	Shared                int

	shape   Shape
	trunk   trunk
	heads   []*stack
	deltas  [][]float32 // gradient of each head's outputs
	pending []float32   // Running as the passes since the last Commit leave it
	drops   uint64      // layers that drop units
}

// New makes a network whose parameters are drawn from random. It fails with
// [fault.Invalid] when the shape cannot be.
func New(shape Shape, random *rand.Rand) (*Network, error) {
	if err := shape.check(); err != nil {
		return nil, err
	}
	n := &Network{shape: shape}
	n.trunk = newTrunk(n)
	width := shape.Hidden[len(shape.Hidden)-1]
	for _, head := range shape.Heads {
		n.heads = append(n.heads, newHead(n, head, width))
		n.deltas = append(n.deltas, make([]float32, shape.Rows*head.Outputs))
	}
	n.Parameters = make([]float32, sizeOf(n.Tensors))
	n.Gradients = make([]float32, len(n.Parameters))
	n.Running, n.pending = make([]float32, sizeOf(n.Buffers)), make([]float32, sizeOf(n.Buffers))
	for _, s := range n.stacks() {
		s.bind(n)
	}
	n.initialize(random)
	return n, nil
}

func sizeOf(list []Tensor) int {
	if len(list) == 0 {
		return 0
	}
	last := list[len(list)-1]
	return last.Offset + last.Size()
}

// stacks is everything that has layers.
func (n *Network) stacks() []*stack { return append(n.trunk.stacks(), n.heads...) }

// tensor appends a tensor to a list and gives its place in it.
func tensor(list *[]Tensor, name string, rows, cols int) int {
	*list = append(*list, Tensor{Name: name, Offset: sizeOf(*list), Rows: rows, Cols: cols})
	return len(*list) - 1
}

func newHead(n *Network, head Head, width int) *stack {
	s := &stack{}
	for i, hidden := range head.Hidden {
		s.dense(n, head.Name+"."+strconv.Itoa(i), width, hidden, initHe)
		s.relu()
		width = hidden
	}
	init := initXavier
	if n.shape.HeadInit == He {
		init = initHe
	}
	s.dense(n, head.Name, width, head.Outputs, init)
	return s
}

// initialize draws the weights in the order of the tensors.
func (n *Network) initialize(random *rand.Rand) {
	for _, s := range n.stacks() {
		for _, l := range s.layers {
			switch l := l.(type) {
			case *dense:
				scale := math.Sqrt(2 / float64(l.inputs))
				if l.init == initXavier {
					scale = math.Sqrt(2 / float64(l.inputs+l.outputs))
				}
				for i := range l.weight.Data {
					l.weight.Data[i] = float32(random.NormFloat64() * scale)
				}
			case *batchNorm:
				l.initialize()
			}
		}
	}
}

// Forward computes the heads' outputs for the first rows of a batch.
func (n *Network) Forward(inputs []float32, rows int, pass Pass) {
	n.trunk.forward(inputs[:rows*n.shape.Inputs], rows, pass)
	for i, head := range n.heads {
		head.forward(n.trunk.features(i), rows, pass)
	}
}

// Outputs is what a head gave for the rows of the last forward pass.
func (n *Network) Outputs(task int) []float32 { return n.heads[task].out }

// Delta is the room for the gradient of the loss by a head's outputs.
func (n *Network) Delta(task int) []float32 { return n.deltas[task] }

// BackwardHeads turns the deltas into the gradients of the heads and of what the
// trunk gave them.
func (n *Network) BackwardHeads(rows int) {
	for i, head := range n.heads {
		head.backward(rows, n.deltas[i][:rows*n.shape.Heads[i].Outputs], n.trunk.delta(i)[:rows*n.Width()])
	}
}

// Scale multiplies what BackwardHeads found for a task: of its head, and of what
// the trunk gave it.
func (n *Network) Scale(task, rows int, by float32) {
	if by == 1 {
		return
	}
	for _, l := range n.heads[task].layers {
		if d, ok := l.(*dense); ok {
			scale(d.dWeight.Data, by)
			scale(d.dBias, by)
		}
	}
	scale(n.trunk.delta(task)[:rows*n.Width()], by)
}

func scale(values []float32, by float32) {
	for i := range values {
		values[i] *= by
	}
}

// BackwardTrunk turns what BackwardHeads found for some tasks into the gradients
// of the trunk, summed over them; with lastOnly, of its last layers alone.
func (n *Network) BackwardTrunk(rows int, tasks []int, lastOnly bool) {
	n.trunk.backward(rows, tasks, lastOnly)
}

// Width is the number of features that a head gets.
func (n *Network) Width() int { return n.shape.Hidden[len(n.shape.Hidden)-1] }

// Last gives the places of the trunk's last weights: of the last shared layer,
// or of each expert's.
func (n *Network) Last() []Tensor { return n.trunk.last(n) }

// Commit has the running statistics be what the passes since the last Commit or
// Rollback made of them.
func (n *Network) Commit() { copy(n.Running, n.pending) }

// Rollback forgets what the passes since made of the running statistics.
func (n *Network) Rollback() { copy(n.pending, n.Running) }

// Layer is what a hidden layer gave in the last pass.
type Layer struct {
	Name  string
	Out   []float32 // row by row
	Units int
}

// Layers calls for each of the trunk's layers with a ReLU behind it.
func (n *Network) Layers(each func(Layer)) {
	for _, s := range n.trunk.stacks() {
		for i, l := range s.layers {
			if r, ok := l.(*relu); ok {
				each(Layer{Name: s.names[i], Out: r.out, Units: r.units})
			}
		}
	}
}
