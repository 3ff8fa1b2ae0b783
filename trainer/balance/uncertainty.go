package balance

import (
	"math"

	"github.com/vigil-ml/vigil/internal/fault"
)

// UncertaintyConfig is what can be set of uncertainty weighting.
type UncertaintyConfig struct {
	// LearningRate is Adam's, for the logarithms of the variances; over 0.
	LearningRate float64 `yaml:"learning_rate"`
	// LogVariance is where they begin.
	LogVariance float64 `yaml:"log_variance"`
}

// DefaultUncertainty begins with variances of 1.
func DefaultUncertainty() UncertaintyConfig { return UncertaintyConfig{LearningRate: 0.01} }

// maxLogVariance bounds s: a loss that is 0 or below has no optimum.
const maxLogVariance = 10

// uncertainty weighs each task by the noise that it is learnt to have: with
// s_i = log of the variance, the loss
//
//	sum over i of  k_i exp(-s_i) L_i + s_i/2,   k = 1/2 for regression, 1 for classification
//
// is minimized by the model and by s together. Here s makes Adam steps on its
// gradient 1/2 - k_i exp(-s_i) L_i, and the weights are k_i exp(-s_i). At the
// optimum a weight is 1/(2 L_i): they are not bounded, and tasks that fit well
// count for ever more, so s stays within 10 either way.
//
// Source: Kendall, Gal, Cipolla, Multi-Task Learning Using Uncertainty to Weigh
// Losses for Scene Geometry and Semantics, CVPR 2018, equations 7 and 10.
type uncertainty struct {
	factor   []float64 // k
	logVar   []float64 // s
	gradient []float64
	adam     adam
}

// NewUncertainty makes the method.
func NewUncertainty(c UncertaintyConfig, deps Deps) (Method, error) {
	switch {
	case !positive(c.LearningRate):
		return nil, fault.New(fault.Invalid, "learning_rate is %v; want a number over 0", c.LearningRate)
	case !(math.Abs(c.LogVariance) <= maxLogVariance):
		return nil, fault.New(fault.Invalid, "log_variance is %v; want -%d to %d", c.LogVariance, maxLogVariance, maxLogVariance)
	}
	n := len(deps.Tasks)
	m := &uncertainty{
		factor: make([]float64, n), logVar: make([]float64, n), gradient: make([]float64, n),
		adam: newAdam(n, c.LearningRate, 0),
	}
	for i, task := range deps.Tasks {
		m.logVar[i], m.factor[i] = c.LogVariance, 1
		if task.Kind == Regression {
			m.factor[i] = 0.5
		}
	}
	return m, nil
}

// Needs says that the losses are enough.
func (*uncertainty) Needs() Need { return Losses }

// Weigh sets the weights, then learns from the losses.
func (m *uncertainty) Weigh(weights []float64, seen Observation) {
	for i, loss := range seen.Losses {
		weights[i] = m.factor[i] * math.Exp(-m.logVar[i])
		m.gradient[i] = 0.5 - weights[i]*loss
	}
	m.adam.step(m.logVar, m.gradient)
	for i, s := range m.logVar {
		m.logVar[i] = max(-maxLogVariance, min(maxLogVariance, s))
	}
}

// State is Adam's state and the logarithms of the variances.
func (m *uncertainty) State(dst []float64) []float64 { return append(m.adam.state(dst), m.logVar...) }

// Restore takes up a State.
func (m *uncertainty) Restore(state []float64) { copy(m.logVar, m.adam.restore(state)) }

func positive(x float64) bool { return x > 0 && !math.IsInf(x, 0) }
