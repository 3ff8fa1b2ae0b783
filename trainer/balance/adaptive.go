package balance

import (
	"math"

	"github.com/vigil-ml/vigil/internal/fault"
)

// AdaptiveConfig is what can be set of the adaptive method.
type AdaptiveConfig struct {
	// Power is how strongly lagging tasks are helped; over 0.
	Power float64 `yaml:"power"`
	// Memory is the number of steps over which losses are averaged; at least 1.
	Memory float64 `yaml:"memory"`
	// MaxRatio is how many times the least weight the greatest may be; over 1.
	MaxRatio float64 `yaml:"max_ratio"`
}

// DefaultAdaptive helps in proportion to the lag, up to a factor of ten between
// two tasks.
func DefaultAdaptive() AdaptiveConfig { return AdaptiveConfig{Power: 1, Memory: 100, MaxRatio: 10} }

// adaptive moves weight to tasks that lag: with the part of its first loss that
// a task still has, averaged over Memory steps,
//
//	p_i = mean(L_i) / first L_i,   w_i in proportion to p_i^Power
//
// the weights are bounded to MaxRatio between two of them and sum to the number
// of tasks. It is GradNorm's idea of a pace without gradients: cheap and steady,
// and blind to a task that lags because it is at its optimum already (its
// irreducible loss is large), which the bound keeps from taking over.
type adaptive struct {
	config AdaptiveConfig
	first  []float64
	means  []float64
	steps  float64
}

// NewAdaptive makes the method.
func NewAdaptive(c AdaptiveConfig, deps Deps) (Method, error) {
	switch {
	case !positive(c.Power):
		return nil, fault.New(fault.Invalid, "power is %v; want a number over 0", c.Power)
	case !(c.Memory >= 1) || math.IsInf(c.Memory, 0):
		return nil, fault.New(fault.Invalid, "memory is %v; want at least 1", c.Memory)
	case !(c.MaxRatio > 1) || math.IsInf(c.MaxRatio, 0):
		return nil, fault.New(fault.Invalid, "max_ratio is %v; want a number over 1", c.MaxRatio)
	}
	return &adaptive{config: c, first: initialLosses(deps.Tasks), means: make([]float64, len(deps.Tasks))}, nil
}

// Needs says that the losses are enough.
func (*adaptive) Needs() Need { return Losses }

// Weigh takes in the losses and sets the weights.
func (m *adaptive) Weigh(weights []float64, seen Observation) {
	m.steps++
	rate := max(1/m.config.Memory, 1/m.steps)
	for i, loss := range seen.Losses {
		m.means[i] += rate * (loss - m.means[i])
	}
	ratios(weights, m.first, m.means)
	most := 0.0
	for i, ratio := range weights {
		weights[i] = math.Pow(ratio, m.config.Power)
		most = max(most, weights[i])
	}
	for i := range weights {
		if most == 0 {
			weights[i] = 1
		}
		weights[i] = max(weights[i], most/m.config.MaxRatio)
	}
	scaleTo(weights, float64(len(weights)))
}

// State is the first and the mean losses.
func (m *adaptive) State(dst []float64) []float64 {
	return append(append(append(dst, m.steps), m.first...), m.means...)
}

// Restore takes up a State.
func (m *adaptive) Restore(state []float64) {
	m.steps = state[0]
	copy(m.first, state[1:])
	copy(m.means, state[1+len(m.first):])
}
