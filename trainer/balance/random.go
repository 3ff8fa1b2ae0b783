package balance

import (
	"math/rand/v2"
)

// RandomConfig is what can be set of random loss weighting: nothing.
type RandomConfig struct{}

// random draws the weights of every step anew: T times the softmax of standard
// normal numbers. As a baseline it shows how much of another method's gain is
// mere noise. What is drawn depends on the seed and the step alone, so that a
// resumed training draws the same.
//
// Source: Lin, Ye, Zhang, Tsang, Reasonable Effectiveness of Random Weighting: A
// Litmus Test for Multi-Task Learning, TMLR 2022. The factor T, which the paper
// does not have, keeps the learning rate comparable with that of other methods.
type random struct {
	stateless
	draws
}

// NewRandom makes the method.
func NewRandom(_ RandomConfig, deps Deps) (Method, error) {
	return &random{draws: newDraws(deps.Seed)}, nil
}

// Needs says that the losses are enough.
func (*random) Needs() Need { return Losses }

// Weigh draws the weights of the step.
func (m *random) Weigh(weights []float64, seen Observation) {
	source := m.of(seen.Step)
	for i := range weights {
		weights[i] = source.NormFloat64()
	}
	softmax(weights)
	scaleTo(weights, float64(len(weights)))
}

// draws is random numbers that depend on a seed and a step.
type draws struct {
	seed   uint64
	state  *rand.PCG
	source *rand.Rand
}

func newDraws(seed uint64) draws {
	state := rand.NewPCG(seed, 0)
	return draws{seed: seed, state: state, source: rand.New(state)}
}

// of gives the numbers of a step; they are valid until the next call.
func (d *draws) of(step int64) *rand.Rand {
	d.state.Seed(d.seed, uint64(step))
	return d.source
}
