package balance

import "math"

// Constants of Adam (Kingma and Ba, 2015, algorithm 1).
const (
	beta1   = 0.9
	beta2   = 0.999
	epsilon = 1e-8
)

// adam is the optimizer of methods that learn their weights.
type adam struct {
	rate  float64 // learning rate
	decay float64 // L2 penalty, added to the gradient
	steps float64
	mean  []float64
	vary  []float64
}

func newAdam(size int, rate, decay float64) adam {
	return adam{rate: rate, decay: decay, mean: make([]float64, size), vary: make([]float64, size)}
}

// step makes one update of parameters by their gradient.
func (a *adam) step(parameters, gradient []float64) {
	a.steps++
	correct1, correct2 := 1-math.Pow(beta1, a.steps), 1-math.Pow(beta2, a.steps)
	for i, g := range gradient {
		g += a.decay * parameters[i]
		a.mean[i] = beta1*a.mean[i] + (1-beta1)*g
		a.vary[i] = beta2*a.vary[i] + (1-beta2)*g*g
		parameters[i] -= a.rate * (a.mean[i] / correct1) / (math.Sqrt(a.vary[i]/correct2) + epsilon)
	}
}

// state appends what Adam has learnt: 1 + 2*size numbers.
func (a *adam) state(dst []float64) []float64 {
	return append(append(append(dst, a.steps), a.mean...), a.vary...)
}

// restore takes up a state and gives what stands behind it.
func (a *adam) restore(state []float64) []float64 {
	a.steps = state[0]
	state = state[1:]
	copy(a.mean, state)
	copy(a.vary, state[len(a.mean):])
	return state[2*len(a.mean):]
}
