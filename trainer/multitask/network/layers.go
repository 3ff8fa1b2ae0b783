package network

import (
	"gonum.org/v1/gonum/blas/blas32"
)

// layer is one step of a stack. Forward may change its input in place and gives
// its output, which it keeps for backward; backward gets the gradient of that
// output, may change it, overwrites the gradients of the layer's parameters, and
// leaves the gradient of its input in dIn unless that is nil.
type layer interface {
	bind(n *Network)
	forward(in []float32, rows int, pass Pass) []float32
	backward(rows int, dOut, dIn []float32) []float32
}

type initialization uint8

const (
	initHe initialization = iota
	initXavier
)

// dense is a fully connected layer.
type dense struct {
	inputs, outputs int
	init            initialization
	weightAt        int // its tensor; the bias is the next
	weight, dWeight blas32.General
	bias, dBias     []float32
	in, out         []float32
	dIn             []float32 // the gradient of the input, where the stack needs one
	turned          []float32 // the weight, transposed
}

func (d *dense) bind(n *Network) {
	weight, bias := n.Tensors[d.weightAt], n.Tensors[d.weightAt+1]
	d.weight = matrix(weight.Rows, weight.Cols, weight.Of(n.Parameters))
	d.dWeight = matrix(weight.Rows, weight.Cols, weight.Of(n.Gradients))
	d.bias, d.dBias = bias.Of(n.Parameters), bias.Of(n.Gradients)
	d.out = make([]float32, n.shape.Rows*d.outputs)
	d.dIn = make([]float32, n.shape.Rows*d.inputs)
	d.turned = make([]float32, weight.Size())
}

func (d *dense) forward(in []float32, rows int, _ Pass) []float32 {
	d.in = in
	out := matrix(rows, d.outputs, d.out)
	gemm(false, matrix(rows, d.inputs, in), d.weight, out)
	for i := range rows {
		row := out.Data[i*d.outputs : (i+1)*d.outputs]
		for j, bias := range d.bias {
			row[j] += bias
		}
	}
	return out.Data
}

func (d *dense) backward(rows int, dOut, dIn []float32) []float32 {
	delta := matrix(rows, d.outputs, dOut)
	gemm(true, matrix(rows, d.inputs, d.in), delta, d.dWeight)
	clear(d.dBias)
	for i := range rows {
		for j, value := range delta.Data[i*d.outputs : (i+1)*d.outputs] {
			d.dBias[j] += value
		}
	}
	if dIn == nil {
		return nil
	}
	turned := matrix(d.outputs, d.inputs, d.turned)
	transpose(d.weight, turned)
	gemm(false, delta, turned, matrix(rows, d.inputs, dIn))
	return dIn
}

// relu cuts its input off below 0, in place.
type relu struct {
	units int
	out   []float32
}

func (*relu) bind(*Network) {}

func (r *relu) forward(in []float32, _ int, _ Pass) []float32 {
	for i, value := range in {
		if value < 0 {
			in[i] = 0
		}
	}
	r.out = in
	return in
}

func (r *relu) backward(_ int, dOut, _ []float32) []float32 {
	for i, value := range r.out[:len(dOut)] {
		if value <= 0 {
			dOut[i] = 0
		}
	}
	return dOut
}

// skip adds a stack's input to what the layers since gave.
type skip struct {
	from int // the layer whose input it is
	in   []float32
	out  []float32
	kept []float32 // the gradient that goes around
	size int
}

func (s *skip) bind(n *Network) { s.out = make([]float32, n.shape.Rows*s.size) }

func (s *skip) forward(in []float32, rows int, _ Pass) []float32 {
	out := s.out[:rows*s.size]
	for i, value := range in {
		out[i] = value + s.in[i]
	}
	return out
}

// backward passes the gradient on; the stack adds it to the other way's.
func (s *skip) backward(_ int, dOut, _ []float32) []float32 { return dOut }
