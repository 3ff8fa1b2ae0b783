package balance

import (
	"math"

	"github.com/vigil-ml/vigil/internal/fault"
)

// FAMOConfig is what can be set of FAMO.
type FAMOConfig struct {
	// LearningRate is Adam's, for the logits; over 0.
	LearningRate float64 `yaml:"learning_rate"`
	// Decay is the L2 penalty on the logits; at least 0.
	Decay float64 `yaml:"decay"`
}

// DefaultFAMO is the paper's setting.
func DefaultFAMO() FAMOConfig { return FAMOConfig{LearningRate: 0.025, Decay: 1e-3} }

// famo makes all tasks' losses fall at the same rate, at the cost of one number
// a task: with logits xi and z = softmax(xi),
//
//	w_i = T (z_i / L_i) / sum over j of z_j / L_j
//
// and after the step xi goes against J^T (log L before - log L after), J being
// the derivative of the softmax.
//
// Source: Liu, Feng, Stone, Liu, FAMO: Fast Adaptive Multitask Optimization,
// NeurIPS 2023, algorithm 1. The paper evaluates the same batch again after the
// step; here the next step's batch stands for it, which costs nothing and is as
// noisy as the batches are. The factor T, which the paper does not have, keeps
// the learning rate comparable. Losses below 1e-8 count as that.
type famo struct {
	logits   []float64
	shares   []float64 // softmax of the logits
	logs     []float64 // of the last losses
	gradient []float64
	seen     float64 // 1 once there are last losses
	adam     adam
}

// NewFAMO makes the method.
func NewFAMO(c FAMOConfig, deps Deps) (Method, error) {
	switch {
	case !positive(c.LearningRate):
		return nil, fault.New(fault.Invalid, "learning_rate is %v; want a number over 0", c.LearningRate)
	case !(c.Decay >= 0) || math.IsInf(c.Decay, 0):
		return nil, fault.New(fault.Invalid, "decay is %v; want a number of at least 0", c.Decay)
	}
	n := len(deps.Tasks)
	return &famo{
		logits: make([]float64, n), shares: make([]float64, n), logs: make([]float64, n), gradient: make([]float64, n),
		adam: newAdam(n, c.LearningRate, c.Decay),
	}, nil
}

// Needs says that the losses are enough.
func (*famo) Needs() Need { return Losses }

// Weigh learns from how the losses fell since the last step, then sets the
// weights.
func (m *famo) Weigh(weights []float64, seen Observation) {
	if m.seen == 1 {
		m.learn(seen.Losses)
	}
	m.seen = 1
	copy(m.shares, m.logits)
	softmax(m.shares)
	for i, loss := range seen.Losses {
		m.logs[i] = math.Log(max(leastLoss, loss))
		weights[i] = m.shares[i] / max(leastLoss, loss)
	}
	scaleTo(weights, float64(len(weights)))
}

// learn moves the logits: d (z . delta) / d xi_i = z_i (delta_i - z . delta).
func (m *famo) learn(losses []float64) {
	mean := 0.0
	for i, loss := range losses {
		m.gradient[i] = m.logs[i] - math.Log(max(leastLoss, loss))
		mean += m.shares[i] * m.gradient[i]
	}
	for i := range m.gradient {
		m.gradient[i] = m.shares[i] * (m.gradient[i] - mean)
	}
	m.adam.step(m.logits, m.gradient)
}

// State is Adam's state, the logits and the last losses.
func (m *famo) State(dst []float64) []float64 {
	return append(append(append(m.adam.state(dst), m.logits...), m.logs...), m.seen)
}

// Restore takes up a State.
func (m *famo) Restore(state []float64) {
	state = m.adam.restore(state)
	copy(m.logits, state)
	copy(m.shares, m.logits)
	softmax(m.shares)
	copy(m.logs, state[len(m.logits):])
	m.seen = state[len(state)-1]
}
