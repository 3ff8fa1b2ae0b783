package multitask

import "math"

// Constants of Adam (Kingma and Ba, 2015, algorithm 1).
const (
	beta1   = 0.9
	beta2   = 0.999
	epsilon = 1e-8
)

// adam is the optimizer's state.
type adam struct {
	mean     []float32 // first moment
	variance []float32 // second moment, uncentred
}

func newAdam(parameters int) adam {
	return adam{mean: make([]float32, parameters), variance: make([]float32, parameters)}
}

// apply makes one update; step counts from 1.
func (a *adam) apply(parameters, gradients []float32, step int64, learningRate float64) {
	mean, variance := a.mean[:len(parameters)], a.variance[:len(parameters)]
	gradients = gradients[:len(parameters)]
	// The corrections of both moments, folded into the rate.
	rate := float32(learningRate * math.Sqrt(1-math.Pow(beta2, float64(step))) / (1 - math.Pow(beta1, float64(step))))
	for i, g := range gradients {
		mean[i] = beta1*mean[i] + (1-beta1)*g
		variance[i] = beta2*variance[i] + (1-beta2)*g*g
		parameters[i] -= rate * mean[i] / (float32(math.Sqrt(float64(variance[i]))) + epsilon)
	}
}
