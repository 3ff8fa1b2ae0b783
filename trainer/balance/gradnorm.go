package balance

import (
	"math"

	"github.com/vigil-ml/vigil/internal/fault"
)

// GradNormConfig is what can be set of GradNorm.
type GradNormConfig struct {
	// Alpha is how strongly tasks that learn slowly are helped: 0 makes all
	// weighted gradient norms equal. The paper has 1.5 for different tasks, 0.12
	// for like ones; from 3 on training becomes unstable.
	Alpha float64 `yaml:"alpha"`
	// LearningRate is Adam's, for the weights; over 0.
	LearningRate float64 `yaml:"learning_rate"`
}

// DefaultGradNorm is the paper's setting for different tasks.
func DefaultGradNorm() GradNormConfig { return GradNormConfig{Alpha: 1.5, LearningRate: 0.025} }

// leastWeight keeps a weight above 0: an optimizer step could take it below,
// and a task with a negative weight would be unlearnt.
const leastWeight = 1e-3

// gradNorm moves the weights until every task's weighted gradient norm on the
// shared parameters, G_i = w_i |g_i|, is what its pace of learning calls for:
//
//	r_i      = (L_i / L_i at the beginning) / mean of those ratios
//	target_i = mean(G) r_i^alpha            (a constant to the gradient)
//	loss     = sum over i of |G_i - target_i|
//	d loss / d w_i = sign(G_i - target_i) |g_i|
//
// The weights make an Adam step on that gradient and are scaled to sum to the
// number of tasks.
//
// Source: Chen, Badrinarayanan, Lee, Rabinovich, GradNorm: Gradient
// Normalization for Adaptive Loss Balancing in Deep Multitask Networks, ICML
// 2018, algorithm 1. It keeps weights at 0.001 or more, which the paper leaves
// open. A task whose first loss is 0 has a ratio of 1.
type gradNorm struct {
	alpha    float64
	first    []float64 // losses at the beginning; 0: not seen
	weights  []float64
	gradient []float64
	pace     []float64
	adam     adam
}

// NewGradNorm makes the method.
func NewGradNorm(c GradNormConfig, deps Deps) (Method, error) {
	switch {
	case !(c.Alpha >= 0) || math.IsInf(c.Alpha, 0):
		return nil, fault.New(fault.Invalid, "alpha is %v; want a number of at least 0", c.Alpha)
	case !positive(c.LearningRate):
		return nil, fault.New(fault.Invalid, "learning_rate is %v; want a number over 0", c.LearningRate)
	}
	n := len(deps.Tasks)
	m := &gradNorm{
		alpha: c.Alpha, first: initialLosses(deps.Tasks), weights: make([]float64, n), gradient: make([]float64, n),
		pace: make([]float64, n), adam: newAdam(n, c.LearningRate, 0),
	}
	for i := range m.weights {
		m.weights[i] = 1
	}
	return m, nil
}

// initialLosses gives what the tasks say that they began with.
func initialLosses(tasks []Task) []float64 {
	first := make([]float64, len(tasks))
	for i, task := range tasks {
		first[i] = task.InitialLoss
	}
	return first
}

// ratios sets how much of its first loss each task still has, and notes first
// losses. What began at 0, or below, has no ratio: 1.
func ratios(dst, first, losses []float64) (mean float64) {
	for i, loss := range losses {
		if first[i] == 0 {
			first[i] = loss
		}
		dst[i] = 1
		if first[i] > 0 {
			dst[i] = max(0, loss/first[i])
		}
		mean += dst[i] / float64(len(losses))
	}
	return mean
}

// Needs says that gradient norms are needed.
func (*gradNorm) Needs() Need { return Norms }

// Weigh sets the weights, then learns from losses and norms.
func (m *gradNorm) Weigh(weights []float64, seen Observation) {
	copy(weights, m.weights)
	meanRatio := ratios(m.pace, m.first, seen.Losses)
	meanNorm := 0.0
	for i, norm := range seen.Norms {
		meanNorm += m.weights[i] * norm / float64(len(weights))
	}
	if meanNorm == 0 || meanRatio == 0 {
		return // nothing to share out
	}
	for i, norm := range seen.Norms {
		target := meanNorm * math.Pow(m.pace[i]/meanRatio, m.alpha)
		m.gradient[i] = sign(m.weights[i]*norm-target) * norm
	}
	m.adam.step(m.weights, m.gradient)
	for i, w := range m.weights {
		m.weights[i] = max(leastWeight, w)
	}
	scaleTo(m.weights, float64(len(m.weights)))
}

// scaleTo scales values that are over 0 to a sum.
func scaleTo(values []float64, want float64) {
	sum := 0.0
	for _, value := range values {
		sum += value
	}
	for i := range values {
		values[i] *= want / sum
	}
}

func sign(x float64) float64 {
	switch {
	case x > 0:
		return 1
	case x < 0:
		return -1
	}
	return 0
}

// State is Adam's state, the first losses and the weights.
func (m *gradNorm) State(dst []float64) []float64 {
	return append(append(m.adam.state(dst), m.first...), m.weights...)
}

// Restore takes up a State.
func (m *gradNorm) Restore(state []float64) {
	state = m.adam.restore(state)
	copy(m.first, state)
	copy(m.weights, state[len(m.first):])
}
