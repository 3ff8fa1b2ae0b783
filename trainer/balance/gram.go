package balance

import "math"

// gram is the dot products of the tasks' gradients.
type gram struct {
	dots []float64 // row by row
	n    int
}

func (g gram) at(i, j int) float64 { return g.dots[i*g.n+j] }

// times sets dst to the matrix times w: the dot product of each gradient with
// the gradients' sum, weighted by w.
func (g gram) times(dst, w []float64) {
	for i := range dst {
		dst[i] = dot(g.dots[i*g.n:(i+1)*g.n], w)
	}
}

func dot(a, b []float64) float64 {
	sum := 0.0
	for i, x := range a {
		sum += x * b[i]
	}
	return sum
}

// Dots sets dst, T*T values row by row, to the dot products of T gradients of
// one length. Sums are made in float64.
func Dots(dst []float64, gradients [][]float32) {
	n := len(gradients)
	for i, a := range gradients {
		for j, b := range gradients[:i+1] {
			sum := 0.0
			for k, x := range a {
				sum += float64(x) * float64(b[k])
			}
			dst[i*n+j], dst[j*n+i] = sum, sum
		}
	}
}

// LeastCosine gives the least cosine between two tasks' gradients, of T*T dot
// products: below 0 their tasks are in conflict. It is NaN where there are no
// two gradients that are not zero.
func LeastCosine(dots []float64, tasks int) float64 {
	g, least := gram{dots, tasks}, math.NaN()
	for i := range tasks {
		for j := range i {
			norms := math.Sqrt(g.at(i, i)) * math.Sqrt(g.at(j, j))
			if norms == 0 {
				continue
			}
			cosine := max(-1, min(1, g.at(i, j)/norms))
			if math.IsNaN(least) || cosine < least {
				least = cosine
			}
		}
	}
	return least
}
