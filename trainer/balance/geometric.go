package balance

import "math"

// GeometricConfig is what can be set of geometric loss: nothing.
type GeometricConfig struct{}

// geometric minimizes T times the geometric mean of the losses, whatever their
// units: its gradient is that of the sum with the weights
//
//	w_i = (product of all L_j)^(1/T) / L_i
//
// Source: Chennupati et al., MultiNet++: Multi-Stream Feature Aggregation and
// Geometric Loss Strategy for Multi-Task Learning, CVPR workshops 2019. The
// factor T keeps the learning rate comparable with that of other methods. Losses
// below 1e-8, which have no logarithm or a wild one, count as that.
type geometric struct{ stateless }

// NewGeometric makes the method.
func NewGeometric(GeometricConfig, Deps) (Method, error) { return geometric{}, nil }

// Needs says that the losses are enough.
func (geometric) Needs() Need { return Losses }

const leastLoss = 1e-8

// Weigh sets the weights.
func (geometric) Weigh(weights []float64, seen Observation) {
	sum := 0.0
	for _, loss := range seen.Losses {
		sum += math.Log(max(leastLoss, loss))
	}
	mean := math.Exp(sum / float64(len(weights)))
	for i, loss := range seen.Losses {
		weights[i] = mean / max(leastLoss, loss)
	}
}
