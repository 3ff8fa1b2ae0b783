package balance

import (
	"math"

	"github.com/vigil-ml/vigil/internal/fault"
)

// CAGradConfig is what can be set of CAGrad.
type CAGradConfig struct {
	// Radius is how far the direction may leave the mean gradient, as a share of
	// its length: 0 is equal weights, towards 1 it becomes MGDA; at least 0, below 1.
	Radius float64 `yaml:"radius"`
}

// DefaultCAGrad is the paper's setting.
func DefaultCAGrad() CAGradConfig { return CAGradConfig{Radius: 0.5} }

// cagrad takes, of the directions within c|g_0| of the mean gradient g_0, that
// which helps the worst-off task most: with w on the simplex that minimizes
//
//	g_w . g_0 + c |g_0| |g_w|,   g_w = sum of w_i g_i
//
// it is g_0 + (c |g_0| / |g_w|) g_w, here over 1 + c^2 as the authors' code has
// it, times the number of tasks, so that c = 0 is the plain sum.
//
// Source: Liu, Liu, Jin, Stone, Liu, Conflict-Averse Gradient Descent for
// Multi-task Learning, NeurIPS 2021, algorithm 1.
type cagrad struct {
	stateless
	radius float64
	worst  simplex
}

// NewCAGrad makes the method.
func NewCAGrad(c CAGradConfig, deps Deps) (Method, error) {
	if !(c.Radius >= 0 && c.Radius < 1) {
		return nil, fault.New(fault.Invalid, "radius is %v; want at least 0 and below 1", c.Radius)
	}
	return &cagrad{radius: c.Radius, worst: newSimplex(len(deps.Tasks))}, nil
}

// Needs says that the gradients' dot products are needed.
func (*cagrad) Needs() Need { return Gram }

// Weigh sets the weights of the step.
func (m *cagrad) Weigh(weights []float64, seen Observation) {
	n := float64(len(weights))
	for i := range weights {
		weights[i] = 1
	}
	s := &m.worst
	s.gram.dots = seen.Gram
	s.gram.times(s.linear, weights) // each gradient times the sum of all
	mean := math.Sqrt(max(0, dot(s.linear, weights))) / n
	if m.radius == 0 || mean == 0 {
		return
	}
	for i := range s.linear {
		s.linear[i] /= n
	}
	s.root = m.radius * mean
	s.minimize()
	s.refresh()
	if s.q == 0 {
		return // no direction is better than the sum
	}
	for i, w := range s.w {
		weights[i] = (1 + n*s.root/math.Sqrt(s.q)*w) / (1 + m.radius*m.radius)
	}
}
