package balance

import (
	"math"
	"slices"
	"strings"

	"github.com/vigil-ml/vigil/internal/fault"
)

// StaticConfig is the weights of static weighting.
type StaticConfig struct {
	// Weights is each task's weight by its name, at least 0; a task that is not
	// named has 1.
	Weights map[string]float64 `yaml:"weights"`
}

// static is weights that somebody chose, as a grid search does.
type static struct {
	stateless
	weights []float64
}

// NewStatic makes the method with weights that are given. A weight that is
// negative, not a number, or of no task is refused.
func NewStatic(c StaticConfig, deps Deps) (Method, error) {
	m := &static{weights: make([]float64, len(deps.Tasks))}
	var names []string
	for i, task := range deps.Tasks {
		m.weights[i] = 1
		if weight, ok := c.Weights[task.Name]; ok {
			m.weights[i] = weight
		}
		names = append(names, task.Name)
	}
	for name, weight := range c.Weights {
		if !slices.Contains(names, name) {
			return nil, fault.New(fault.Invalid, "there is no task %q; there are %s", name, strings.Join(names, ", "))
		}
		if !(weight >= 0) || math.IsInf(weight, 0) {
			return nil, fault.New(fault.Invalid, "the weight of %q is %v; want a number of at least 0", name, weight)
		}
	}
	return m, nil
}

// Needs says that the losses are enough.
func (*static) Needs() Need { return Losses }

// Weigh sets the weights that were given.
func (m *static) Weigh(weights []float64, _ Observation) { copy(weights, m.weights) }
