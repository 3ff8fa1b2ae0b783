package multitask

import (
	"math"
	"math/rand/v2"

	"gonum.org/v1/gonum/blas/blas32"

	"github.com/vigil-ml/vigil/trainer/digits"
)

const (
	hidden1 = 128
	hidden2 = 64
	// InkUnit is the ink that the third head calls 1: about a canvas' mean.
	InkUnit = 32
)

// tensor is one named piece of the flat list of parameters.
type tensor struct {
	name   string
	offset int
	rows   int // inputs of a weight; 1 for a bias
	cols   int // outputs
}

func (t tensor) size() int { return t.rows * t.cols }

// of gives the tensor's part of a flat list.
func (t tensor) of(flat []float32) []float32 { return flat[t.offset : t.offset+t.size()] }

// layers lists the network's layers in the order in which they are computed.
func layers() []struct {
	name    string
	in, out int
} {
	return []struct {
		name    string
		in, out int
	}{
		{"encoder.0", digits.CanvasPixels, hidden1},
		{"encoder.1", hidden1, hidden2},
		{"left", hidden2, digits.Classes},
		{"right", hidden2, digits.Classes},
		{"ink", hidden2, 1},
	}
}

// tensors lists the parameters in the order in which they lie, and their
// number.
func tensors() (list []tensor, parameters int) {
	for _, layer := range layers() {
		for _, t := range []tensor{
			{name: layer.name + ".weight", rows: layer.in, cols: layer.out},
			{name: layer.name + ".bias", rows: 1, cols: layer.out},
		} {
			t.offset = parameters
			parameters += t.size()
			list = append(list, t)
		}
	}
	return list, parameters
}

// network is parameters, their gradients, and the room that one batch needs.
// It is for one goroutine.
type network struct {
	tensors    []tensor
	parameters []float32
	gradients  []float32
	encoder    [2]dense
	left       dense
	right      dense
	ink        dense
	dFeatures  []float32 // gradient of the encoder's output, head by head
}

func newNetwork(batch int) *network {
	list, count := tensors()
	n := &network{
		tensors: list, parameters: make([]float32, count), gradients: make([]float32, count),
		dFeatures: make([]float32, batch*hidden2),
	}
	for i, layer := range []*dense{&n.encoder[0], &n.encoder[1], &n.left, &n.right, &n.ink} {
		*layer = newDense(n, list[2*i], list[2*i+1], batch)
	}
	n.encoder[0].relu, n.encoder[1].relu = true, true
	n.encoder[0].first = true
	return n
}

// initialize draws the weights (He et al., 2015: variance 2/inputs); biases
// are zero.
func (n *network) initialize(rng *rand.Rand) {
	for i := 0; i < len(n.tensors); i += 2 {
		scale := math.Sqrt(2 / float64(n.tensors[i].rows))
		weights := n.tensors[i].of(n.parameters)
		for j := range weights {
			weights[j] = float32(rng.NormFloat64() * scale)
		}
	}
}

// forward computes the heads' outputs for the first rows of a batch.
func (n *network) forward(input blas32.General) {
	n.encoder[0].forward(input)
	n.encoder[1].forward(n.encoder[0].output(input.Rows))
	features := n.encoder[1].output(input.Rows)
	n.left.forward(features)
	n.right.forward(features)
	n.ink.forward(features)
}

// backward computes the gradients; the heads' delta must hold the gradient of
// the loss by their outputs.
func (n *network) backward(input blas32.General) {
	rows := input.Rows
	features := n.encoder[1].output(rows)
	into := matrix(rows, hidden2, n.encoder[1].delta)
	n.left.backward(features, into)
	for _, head := range []*dense{&n.right, &n.ink} {
		part := matrix(rows, hidden2, n.dFeatures)
		head.backward(features, part)
		for i, value := range part.Data {
			into.Data[i] += value
		}
	}
	middle := n.encoder[0].output(rows)
	n.encoder[1].backward(middle, matrix(rows, hidden1, n.encoder[0].delta))
	n.encoder[0].backward(input, blas32.General{})
}

// dense is a fully connected layer, with a ReLU behind it or without.
type dense struct {
	weight, bias   blas32.General // views of the network's parameters
	dWeight, dBias blas32.General // views of its gradients
	relu           bool
	first          bool // nobody needs the gradient by its input
	out            []float32
	delta          []float32 // gradient of the loss by out
	turned         []float32 // the weight, transposed
}

func newDense(n *network, weight, bias tensor, batch int) dense {
	view := func(t tensor, flat []float32) blas32.General { return matrix(t.rows, t.cols, t.of(flat)) }
	return dense{
		weight: view(weight, n.parameters), bias: view(bias, n.parameters),
		dWeight: view(weight, n.gradients), dBias: view(bias, n.gradients),
		out: make([]float32, batch*weight.cols), delta: make([]float32, batch*weight.cols),
		turned: make([]float32, weight.size()),
	}
}

func (d *dense) output(rows int) blas32.General { return matrix(rows, d.weight.Cols, d.out) }

func (d *dense) forward(in blas32.General) {
	out := d.output(in.Rows)
	gemm(false, in, d.weight, out)
	for i := range out.Rows {
		row := out.Data[i*out.Stride : i*out.Stride+out.Cols]
		for j, bias := range d.bias.Data {
			row[j] += bias
			if d.relu && row[j] < 0 {
				row[j] = 0
			}
		}
	}
}

// backward turns delta into the gradients of the parameters and, unless it is
// the first layer, of the input.
func (d *dense) backward(in, dIn blas32.General) {
	delta := matrix(in.Rows, d.weight.Cols, d.delta)
	if d.relu {
		for i, value := range d.out[:len(delta.Data)] {
			if value <= 0 {
				delta.Data[i] = 0
			}
		}
	}
	gemm(true, in, delta, d.dWeight)
	clear(d.dBias.Data)
	for i := range delta.Rows {
		for j, value := range delta.Data[i*delta.Stride : i*delta.Stride+delta.Cols] {
			d.dBias.Data[j] += value
		}
	}
	if d.first {
		return
	}
	turned := matrix(d.weight.Cols, d.weight.Rows, d.turned)
	transpose(d.weight, turned)
	gemm(false, delta, turned, dIn)
}
