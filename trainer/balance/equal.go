package balance

// EqualConfig is what can be set of equal weighting: nothing.
type EqualConfig struct{}

// equal lets every task count for one: the baseline that no method beats
// reliably once it is regularised well (Kurin et al., In Defense of the Unitary
// Scalarization for Deep Multi-Task Learning, NeurIPS 2022).
type equal struct{ stateless }

// NewEqual makes the method with weight 1 for every task.
func NewEqual(EqualConfig, Deps) (Method, error) { return equal{}, nil }

// Needs says that the losses are enough.
func (equal) Needs() Need { return Losses }

// Weigh sets every weight to 1.
func (equal) Weigh(weights []float64, _ Observation) {
	for i := range weights {
		weights[i] = 1
	}
}
