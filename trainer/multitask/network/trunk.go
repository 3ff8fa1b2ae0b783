package network

import (
	"math"
	"strconv"
)

// trunk is what tasks share, with what decides how each uses it.
type trunk interface {
	stacks() []*stack
	forward(in []float32, rows int, pass Pass)
	features(task int) []float32
	// delta is the room for the gradient of a task's features.
	delta(task int) []float32
	trunkBackward
}

type trunkBackward interface {
	// backward sets the gradients for the sum of the named tasks' deltas, which it
	// leaves as they are.
	backward(rows int, tasks []int, lastOnly bool)
	// last gives the tensors of the last shared weights.
	last(n *Network) []Tensor
}

func newTrunk(n *Network) trunk {
	if n.shape.Trunk == MMoE {
		return newMixture(n)
	}
	s := &single{encoder: encoder(n, "encoder"), sum: make([]float32, n.shape.Rows*n.Width())}
	n.Shared = sizeOf(n.Tensors)
	for range n.shape.Heads {
		s.deltas = append(s.deltas, make([]float32, n.shape.Rows*n.Width()))
	}
	return s
}

// single is one encoder whose output every task gets.
type single struct {
	encoder *stack
	deltas  [][]float32
	sum     []float32
}

func (s *single) stacks() []*stack { return []*stack{s.encoder} }

func (s *single) forward(in []float32, rows int, pass Pass) { s.encoder.forward(in, rows, pass) }

func (s *single) features(int) []float32 { return s.encoder.out }

func (s *single) delta(task int) []float32 { return s.deltas[task] }

func (s *single) backward(rows int, tasks []int, lastOnly bool) {
	sum := s.sum[:len(s.encoder.out)]
	for k, task := range tasks {
		if k == 0 {
			copy(sum, s.deltas[task])
			continue
		}
		for i, value := range s.deltas[task][:len(sum)] {
			sum[i] += value
		}
	}
	if lastOnly {
		s.encoder.backwardLast(rows, sum)
	} else {
		s.encoder.backward(rows, sum, nil)
	}
}

func (s *single) last(n *Network) []Tensor { return []Tensor{lastOf(n, s.encoder)} }

func lastOf(n *Network, s *stack) Tensor { return n.Tensors[s.layers[s.lastDense()].(*dense).weightAt] }

// mixture is experts, and for each task a gate that says, for every sample, how
// much of each expert's output it gets: softmax of a linear map of the input.
type mixture struct {
	experts []*stack
	gates   []*stack
	width   int
	shares  [][]float32 // of each expert, row by row, by task
	mixed   [][]float32 // features by task
	deltas  [][]float32
	dExpert []float32
	dGate   []float32
	sized   int // rows of the last pass
}

func newMixture(n *Network) *mixture {
	m := &mixture{width: n.Width()}
	for e := range n.shape.Experts {
		m.experts = append(m.experts, encoder(n, "expert."+strconv.Itoa(e)))
	}
	n.Shared = sizeOf(n.Tensors)
	for _, head := range n.shape.Heads {
		gate := &stack{}
		gate.dense(n, "gate."+head.Name, n.shape.Inputs, n.shape.Experts, initXavier)
		m.gates = append(m.gates, gate)
		m.shares = append(m.shares, make([]float32, n.shape.Rows*n.shape.Experts))
		m.mixed = append(m.mixed, make([]float32, n.shape.Rows*m.width))
		m.deltas = append(m.deltas, make([]float32, n.shape.Rows*m.width))
	}
	m.dExpert = make([]float32, n.shape.Rows*m.width)
	m.dGate = make([]float32, n.shape.Rows*n.shape.Experts)
	return m
}

func (m *mixture) stacks() []*stack { return append(append([]*stack(nil), m.experts...), m.gates...) }

func (m *mixture) forward(in []float32, rows int, pass Pass) {
	m.sized = rows
	for _, expert := range m.experts {
		expert.forward(in, rows, pass)
	}
	for t, gate := range m.gates {
		logits := gate.forward(in, rows, pass)
		shares, mixed := m.shares[t], m.mixed[t][:rows*m.width]
		clear(mixed)
		for i := range rows {
			row := shares[i*len(m.experts) : (i+1)*len(m.experts)]
			Softmax(row, logits[i*len(m.experts):(i+1)*len(m.experts)])
			out := mixed[i*m.width : (i+1)*m.width]
			for e, share := range row {
				for j, value := range m.experts[e].out[i*m.width : (i+1)*m.width] {
					out[j] += share * value
				}
			}
		}
	}
}

// Softmax sets dst to the softmax of values, of which there is one at least.
func Softmax(dst, values []float32) {
	most, sum := values[0], 0.0
	for _, value := range values {
		most = max(most, value)
	}
	for i, value := range values {
		e := math.Exp(float64(value - most))
		dst[i] = float32(e)
		sum += e
	}
	for i := range dst {
		dst[i] /= float32(sum)
	}
}

func (m *mixture) features(task int) []float32 { return m.mixed[task][:m.sized*m.width] }

func (m *mixture) delta(task int) []float32 { return m.deltas[task] }

func (m *mixture) backward(rows int, tasks []int, lastOnly bool) {
	count := len(m.experts)
	for e, expert := range m.experts {
		delta := m.dExpert[:rows*m.width]
		clear(delta)
		for _, t := range tasks {
			for i := range rows {
				share := m.shares[t][i*count+e]
				for j, value := range m.deltas[t][i*m.width : (i+1)*m.width] {
					delta[i*m.width+j] += share * value
				}
			}
		}
		if lastOnly {
			expert.backwardLast(rows, delta)
		} else {
			expert.backward(rows, delta, nil)
		}
	}
	if lastOnly {
		return
	}
	for _, t := range tasks {
		m.backwardGate(rows, t)
	}
}

// backwardGate goes back through a task's softmax: with d_e the product of the
// delta with an expert's output, the gradient of a logit is share (d_e - mean d).
func (m *mixture) backwardGate(rows, t int) {
	count := len(m.experts)
	for i := range rows {
		shares, dGate := m.shares[t][i*count:(i+1)*count], m.dGate[i*count:(i+1)*count]
		delta, mean := m.deltas[t][i*m.width:(i+1)*m.width], float32(0)
		for e := range count {
			product := float32(0)
			for j, value := range m.experts[e].out[i*m.width : (i+1)*m.width] {
				product += value * delta[j]
			}
			dGate[e] = product
			mean += shares[e] * product
		}
		for e, share := range shares {
			dGate[e] = share * (dGate[e] - mean)
		}
	}
	m.gates[t].backward(rows, m.dGate[:rows*count], nil)
}

func (m *mixture) last(n *Network) []Tensor {
	var list []Tensor
	for _, expert := range m.experts {
		list = append(list, lastOf(n, expert))
	}
	return list
}
