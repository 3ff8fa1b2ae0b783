package balance

import (
	"math"
	"slices"
)

// NashConfig is what can be set of Nash-MTL: nothing.
type NashConfig struct{}

// nash goes along the direction that the tasks would agree on by bargaining:
// that which maximizes the product of their gains. Its weights solve
//
//	G w = 1/w   (element by element), w > 0
//
// with G the gradients' dot products over their Frobenius norm. They are the
// minimum of w^T G w / 2 - sum of log w_i, which is strictly convex, and Newton's
// method finds it. A task without a gradient is
// left out of the bargain: its weight is 1.
//
// Source: Navon, Shamsian, Achituve, et al., Multi-Task Learning as a Bargaining
// Game, ICML 2022, equation 3; the authors solve it by a sequence of convex
// programs, and normalize G as here. They clip the direction's norm, which is the
// trainer's to do here.
type nash struct {
	stateless
	scaled []float64 // G, normalized
	gw     []float64 // G w
	hesse  []float64
	move   []float64
	slope  []float64
}

// NewNash makes the method.
func NewNash(_ NashConfig, deps Deps) (Method, error) {
	n := len(deps.Tasks)
	return &nash{
		scaled: make([]float64, n*n), gw: make([]float64, n), hesse: make([]float64, n*n),
		move: make([]float64, n), slope: make([]float64, n),
	}, nil
}

// Needs says that the gradients' dot products are needed.
func (*nash) Needs() Need { return Gram }

const (
	newtonSteps = 200
	quadratic   = 1.0 / 16 // Newton decrement, squared, below which full steps are safe
	rounding    = 1e-28    // and where only rounding is left
	// mostWeight ends the search where gradients cancel each other: there is no
	// bargain, the weights grow without bound, and the direction goes to 0.
	mostWeight = 1e4
)

// Weigh sets the weights of the step.
func (m *nash) Weigh(weights []float64, seen Observation) {
	n := len(weights)
	norm := math.Sqrt(dot(seen.Gram, seen.Gram))
	g := gram{m.scaled, n}
	for i := range weights {
		for j := range weights {
			m.scaled[i*n+j] = 0
			if norm > 0 {
				m.scaled[i*n+j] = seen.Gram[i*n+j] / norm
			}
		}
		if g.at(i, i) == 0 {
			m.scaled[i*n+i] = 1 // a bargain of its own, at which w is 1
		}
		weights[i] = 1 / math.Sqrt(m.scaled[i*n+i]) // exact where tasks are orthogonal
	}
	for range newtonSteps {
		if !m.newton(weights, g) {
			return
		}
	}
}

// newton makes one step and tells whether another pays. The function is
// self-concordant, so that steps of 1/(1 + decrement) stay in its domain and
// reach the minimum without a line search (Nesterov and Nemirovskii, 1994).
func (m *nash) newton(weights []float64, g gram) bool {
	n := len(weights)
	g.times(m.gw, weights)
	copy(m.hesse, g.dots)
	for i, w := range weights {
		m.hesse[i*n+i] += 1 / (w * w)
		m.slope[i] = 1/w - m.gw[i] // against the gradient
		m.move[i] = m.slope[i]
	}
	if !solve(m.hesse, m.move) {
		return false
	}
	square, length := dot(m.slope, m.move), 1.0
	if !(square > rounding) {
		return false
	}
	if square > quadratic {
		length = 1 / (1 + math.Sqrt(square))
	}
	for i := range weights {
		weights[i] += length * m.move[i]
	}
	return slices.Max(weights) < mostWeight
}
