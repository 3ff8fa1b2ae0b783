package balance

import "math"

// IMTLConfig is what can be set of IMTL-G: nothing.
type IMTLConfig struct{}

// imtl goes along the direction whose projections on all tasks' gradients are
// equal, so that no task gains more than another, whatever their scales. With
// unit gradients u_i, D the rows g_1 - g_j and U the rows u_1 - u_j for the
// other tasks j, their weights are
//
//	(w_2 .. w_T) = g_1 U^T (D U^T)^-1,   w_1 = 1 - w_2 - .. - w_T
//
// here times the number of tasks. A weight may be negative. Where the system has
// no single solution, as with parallel gradients, or a task has no gradient, the
// weights are 1.
//
// Source: Liu, Li, Kuang, et al., Towards Impartial Multi-task Learning, ICLR
// 2021, section 3.1.
type imtl struct {
	stateless
	matrix []float64
	right  []float64
}

// NewIMTL makes the method.
func NewIMTL(_ IMTLConfig, deps Deps) (Method, error) {
	n := len(deps.Tasks) - 1
	return &imtl{matrix: make([]float64, n*n), right: make([]float64, n)}, nil
}

// Needs says that the gradients' dot products are needed.
func (*imtl) Needs() Need { return Gram }

// Weigh sets the weights of the step.
func (m *imtl) Weigh(weights []float64, seen Observation) {
	g, others := gram{seen.Gram, len(weights)}, len(m.right)
	for i := range weights {
		weights[i] = 1
		if g.at(i, i) == 0 {
			return
		}
	}
	// along is gradient i times (u_1 - u_j).
	along := func(i, j int) float64 {
		return g.at(i, 0)/math.Sqrt(g.at(0, 0)) - g.at(i, j)/math.Sqrt(g.at(j, j))
	}
	// The system is solved as (D U^T)^T w = (g_1 U^T)^T.
	for b := range others {
		m.right[b] = along(0, b+1)
		for a := range others {
			m.matrix[b*others+a] = along(0, b+1) - along(a+1, b+1)
		}
	}
	if !solve(m.matrix, m.right) {
		return
	}
	first := 1.0
	for i, w := range m.right {
		first -= w
		weights[i+1] = w * float64(len(weights))
	}
	weights[0] = first * float64(len(weights))
}
