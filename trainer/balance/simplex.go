package balance

import "math"

// simplex minimizes a convex function of weights that are not negative and sum
// to 1:
//
//	f(w) = linear . w + sqrt-of-q or half-of-q,  q = w^T G w
//
// by moving weight between two tasks at a time, from the one whose weight costs
// most to the one where it costs least, as far as it pays (the pairwise
// Frank-Wolfe steps of Lacoste-Julien and Jaggi, NeurIPS 2015). For the few
// tasks that there are it converges to rounding in microseconds.
type simplex struct {
	gram   gram
	linear []float64
	root   float64 // f has root*sqrt(q) where it is over 0, else q/2

	w     []float64
	gw    []float64 // G w
	q     float64
	slope []float64 // gradient of f
}

func newSimplex(n int) simplex {
	return simplex{
		gram: gram{n: n}, linear: make([]float64, n),
		w: make([]float64, n), gw: make([]float64, n), slope: make([]float64, n),
	}
}

const (
	movesPerTask = 2000
	bisections   = 80
	slack        = 1e-13 // of the gradient's size: where rounding begins
)

// minimize leaves the best weights in w.
func (s *simplex) minimize() {
	for i := range s.w {
		s.w[i] = 1 / float64(len(s.w))
	}
	for range movesPerTask * len(s.w) {
		s.refresh()
		to, from, size := 0, -1, 0.0
		for i, slope := range s.slope {
			size = max(size, math.Abs(slope))
			if slope < s.slope[to] {
				to = i
			}
			if s.w[i] > 0 && (from < 0 || slope > s.slope[from]) {
				from = i
			}
		}
		if s.slope[from]-s.slope[to] <= slack*size {
			return
		}
		t := s.distance(to, from)
		if t == 0 {
			return
		}
		s.w[to] += t
		if t == s.w[from] {
			s.w[from] = 0
		} else {
			s.w[from] = max(0, s.w[from]-t)
		}
	}
}

// refresh computes everything anew from the weights, so that rounding does not
// add up.
func (s *simplex) refresh() {
	s.gram.times(s.gw, s.w)
	s.q = max(0, dot(s.w, s.gw))
	factor := s.factor(s.q)
	for i := range s.slope {
		s.slope[i] = s.linear[i] + factor*s.gw[i]
	}
}

// factor is the derivative of f's second part by q, twice.
func (s *simplex) factor(q float64) float64 {
	if s.root == 0 {
		return 1
	}
	return s.root / max(math.Sqrt(q), math.SmallestNonzeroFloat64)
}

// distance is how much weight it pays to move: where the derivative along the
// way is 0, or all there is. The derivative grows along the way, f being convex.
func (s *simplex) distance(to, from int) float64 {
	g := s.gram
	drift := s.gw[to] - s.gw[from]
	curve := g.at(to, to) + g.at(from, from) - 2*g.at(to, from)
	rises := func(t float64) bool {
		q := max(0, s.q+2*t*drift+t*t*curve)
		return s.linear[to]-s.linear[from]+s.factor(q)*(drift+t*curve) > 0
	}
	low, high := 0.0, s.w[from]
	if !rises(high) {
		return high
	}
	for range bisections {
		if middle := (low + high) / 2; rises(middle) {
			high = middle
		} else {
			low = middle
		}
	}
	return low
}
