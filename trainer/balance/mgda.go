package balance

// MGDAConfig is what can be set of MGDA: nothing.
type MGDAConfig struct{}

// mgda goes along the shortest vector in the convex hull of the tasks'
// gradients: a direction in which no task's loss rises, to first order. The
// weights minimize |sum of w_i g_i|, are not negative and sum to the number of
// tasks, so that the learning rate stays comparable with that of other methods
// (in the paper they sum to 1). Tasks with small gradients get the weight.
//
// Source: Désidéri, Multiple-Gradient Descent Algorithm for Multiobjective
// Optimization, C. R. Acad. Sci. Paris 2012; for networks Sener, Koltun,
// Multi-Task Learning as Multi-Objective Optimization, NeurIPS 2018.
type mgda struct {
	stateless
	hull simplex
}

// NewMGDA makes the method.
func NewMGDA(_ MGDAConfig, deps Deps) (Method, error) {
	return &mgda{hull: newSimplex(len(deps.Tasks))}, nil
}

// Needs says that the gradients' dot products are needed.
func (*mgda) Needs() Need { return Gram }

// Weigh sets the weights of the step.
func (m *mgda) Weigh(weights []float64, seen Observation) {
	m.hull.gram.dots = seen.Gram
	m.hull.minimize()
	for i, w := range m.hull.w {
		weights[i] = w * float64(len(weights))
	}
}
