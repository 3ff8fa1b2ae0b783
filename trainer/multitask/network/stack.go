package network

import "strconv"

// stack is layers, one behind the other.
type stack struct {
	layers []layer
	names  []string // of the block that each belongs to
	width  int
	out    []float32
	seen   [][]float32 // the input of each layer, for skips
}

func (s *stack) add(name string, l layer) {
	s.layers, s.names = append(s.layers, l), append(s.names, name)
	s.seen = append(s.seen, nil)
}

func (s *stack) dense(n *Network, name string, inputs, outputs int, init initialization) {
	at := tensor(&n.Tensors, name+".weight", inputs, outputs)
	tensor(&n.Tensors, name+".bias", 1, outputs)
	s.add(name, &dense{inputs: inputs, outputs: outputs, init: init, weightAt: at})
	s.width = outputs
}

func (s *stack) relu() { s.add(s.names[len(s.names)-1], &relu{units: s.width}) }

// encoder makes a trunk's layers.
func encoder(n *Network, name string) *stack {
	s, width := &stack{}, n.shape.Inputs
	for i, hidden := range n.shape.Hidden {
		block, first := name+"."+strconv.Itoa(i), len(s.layers)
		s.dense(n, block, width, hidden, initHe)
		if n.shape.BatchNorm {
			norm := &batchNorm{units: hidden}
			norm.scaleAt = tensor(&n.Tensors, block+".norm.weight", 1, hidden)
			tensor(&n.Tensors, block+".norm.bias", 1, hidden)
			norm.meanAt = tensor(&n.Buffers, block+".norm.running_mean", 1, hidden)
			tensor(&n.Buffers, block+".norm.running_var", 1, hidden)
			s.add(block, norm)
		}
		s.relu()
		if n.shape.Dropout > 0 {
			s.add(block, newDropout(n.drops, n.shape.Dropout, hidden))
			n.drops++
		}
		if n.shape.Trunk == Residual && width == hidden {
			s.add(block, &skip{from: first, size: hidden})
		}
		width = hidden
	}
	return s
}

func (s *stack) bind(n *Network) {
	for _, l := range s.layers {
		l.bind(n)
	}
}

func (s *stack) forward(in []float32, rows int, pass Pass) []float32 {
	for i, l := range s.layers {
		s.seen[i] = in
		if skip, ok := l.(*skip); ok {
			skip.in = s.seen[skip.from]
		}
		in = l.forward(in, rows, pass)
	}
	s.out = in
	return in
}

// backward goes back from the gradient of the output. It leaves that of the
// input in dIn, unless it is nil.
func (s *stack) backward(rows int, delta, dIn []float32) {
	s.back(rows, delta, dIn, 0)
}

// backwardLast goes back through the last dense layer only.
func (s *stack) backwardLast(rows int, delta []float32) {
	s.back(rows, delta, nil, s.lastDense())
}

func (s *stack) lastDense() int {
	for i := len(s.layers) - 1; ; i-- {
		if _, ok := s.layers[i].(*dense); ok {
			return i
		}
	}
}

// back goes back to the layer end. Where a way around layers begins, its
// gradient is added to theirs.
func (s *stack) back(rows int, delta, dIn []float32, end int) {
	around, from := []float32(nil), -1
	for i := len(s.layers) - 1; i >= end; i-- {
		switch l := s.layers[i].(type) {
		case *skip:
			around, from = l.keep(delta), l.from
		case *dense:
			into := dIn
			if i > end {
				into = l.dIn[:rows*l.inputs]
			}
			delta = l.backward(rows, delta, into)
		default:
			delta = l.backward(rows, delta, nil)
		}
		if i == from && delta != nil {
			for k, value := range around {
				delta[k] += value
			}
		}
	}
}

// keep copies a gradient that other layers are going to change.
func (s *skip) keep(delta []float32) []float32 {
	if cap(s.kept) < len(delta) {
		s.kept = make([]float32, len(s.out))
	}
	s.kept = s.kept[:len(delta)]
	copy(s.kept, delta)
	return s.kept
}
