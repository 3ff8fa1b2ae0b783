package balance

// PCGradConfig is what can be set of PCGrad: nothing.
type PCGradConfig struct{}

// pcgrad takes from each task's gradient what works against another's: for the
// other tasks j in random order, while g_i . g_j < 0,
//
//	g_i -= (g_i . g_j / |g_j|^2) g_j
//
// with g_j as it was at first, and sums the results. What is left of g_i is
// always a weighted sum of the tasks' gradients; those weights are kept here.
// The order depends on the seed and the step alone.
//
// Source: Yu, Kumar, Gupta, Levine, Hausman, Finn, Gradient Surgery for
// Multi-Task Learning, NeurIPS 2020, algorithm 1.
type pcgrad struct {
	stateless
	draws
	order []int
	parts []float64 // what is left of one gradient, as weights of all
}

// NewPCGrad makes the method.
func NewPCGrad(_ PCGradConfig, deps Deps) (Method, error) {
	n := len(deps.Tasks)
	return &pcgrad{draws: newDraws(deps.Seed), order: make([]int, n), parts: make([]float64, n)}, nil
}

// Needs says that the gradients' dot products are needed.
func (*pcgrad) Needs() Need { return Gram }

// Weigh sets the weights of the step.
func (m *pcgrad) Weigh(weights []float64, seen Observation) {
	g := gram{seen.Gram, len(weights)}
	source := m.of(seen.Step)
	clear(weights)
	for i := range weights {
		m.shuffle(source.IntN)
		clear(m.parts)
		m.parts[i] = 1
		for _, j := range m.order {
			if j == i || g.at(j, j) == 0 {
				continue
			}
			if along := dot(m.parts, g.dots[j*g.n:(j+1)*g.n]); along < 0 {
				m.parts[j] -= along / g.at(j, j)
			}
		}
		for j, part := range m.parts {
			weights[j] += part
		}
	}
}

// shuffle puts the tasks into a random order.
func (m *pcgrad) shuffle(below func(int) int) {
	for i := range m.order {
		m.order[i] = i
	}
	for i := len(m.order) - 1; i > 0; i-- {
		j := below(i + 1)
		m.order[i], m.order[j] = m.order[j], m.order[i]
	}
}
