package balance

import (
	"math"

	"github.com/vigil-ml/vigil/internal/fault"
)

// AverageConfig is what can be set of dynamic weight average.
type AverageConfig struct {
	// Temperature softens the weights; over 0. The paper has 2.
	Temperature float64 `yaml:"temperature"`
	// EpochSteps is the number of steps whose mean loss is compared with that of
	// as many before: an epoch, in the paper; at least 1.
	EpochSteps int `yaml:"epoch_steps"`
}

// DefaultAverage compares means over 100 steps.
func DefaultAverage() AverageConfig { return AverageConfig{Temperature: 2, EpochSteps: 100} }

// average gives more weight to tasks whose loss falls more slowly:
//
//	r_i = L_i(t-1) / L_i(t-2),  w_i = T exp(r_i/temperature) / sum over j of exp(r_j/temperature)
//
// with the mean losses of epochs t-1 and t-2 and T tasks; the weights are 1 in
// the first two epochs.
//
// Source: Liu, Johns, Davison, End-to-End Multi-Task Learning with Attention,
// CVPR 2019, equation 7.
type average struct {
	config AverageConfig
	steps  float64 // of the present epoch
	epochs float64 // that are over
	sums   []float64
	last   []float64 // mean losses of the last epoch
	before []float64 // and of the one before
}

// NewAverage makes the method.
func NewAverage(c AverageConfig, deps Deps) (Method, error) {
	switch {
	case !positive(c.Temperature):
		return nil, fault.New(fault.Invalid, "temperature is %v; want a number over 0", c.Temperature)
	case c.EpochSteps < 1:
		return nil, fault.New(fault.Invalid, "epoch_steps is %d; want at least 1", c.EpochSteps)
	}
	n := len(deps.Tasks)
	return &average{config: c, sums: make([]float64, n), last: make([]float64, n), before: make([]float64, n)}, nil
}

// Needs says that the losses are enough.
func (*average) Needs() Need { return Losses }

// Weigh sets the weights of the epoch and counts the losses for the next.
func (m *average) Weigh(weights []float64, seen Observation) {
	if m.steps == float64(m.config.EpochSteps) {
		for i, sum := range m.sums {
			m.before[i], m.last[i], m.sums[i] = m.last[i], sum/m.steps, 0
		}
		m.steps = 0
		m.epochs++
	}
	m.steps++
	for i, loss := range seen.Losses {
		m.sums[i] += loss
		weights[i] = 0
		if m.epochs >= 2 {
			weights[i] = m.rate(i) / m.config.Temperature
		}
	}
	softmax(weights)
	scaleTo(weights, float64(len(weights)))
}

// rate is how much of a task's loss an epoch left; 1 where it was 0.
func (m *average) rate(i int) float64 {
	if m.before[i] == 0 {
		return 1
	}
	return m.last[i] / m.before[i]
}

// softmax replaces values by weights that sum to 1.
func softmax(values []float64) {
	most := math.Inf(-1)
	for _, value := range values {
		most = max(most, value)
	}
	sum := 0.0
	for i, value := range values {
		values[i] = math.Exp(value - most)
		sum += values[i]
	}
	for i := range values {
		values[i] /= sum
	}
}

// State is the sums and means.
func (m *average) State(dst []float64) []float64 {
	return append(append(append(append(dst, m.steps, m.epochs), m.sums...), m.last...), m.before...)
}

// Restore takes up a State.
func (m *average) Restore(state []float64) {
	m.steps, m.epochs = state[0], state[1]
	state = state[2:]
	for _, part := range [][]float64{m.sums, m.last, m.before} {
		copy(part, state)
		state = state[len(part):]
	}
}
