package balance

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// TestPCGradAgainstVectors compares with the algorithm as the paper writes it,
// on the gradients themselves.
func TestPCGradAgainstVectors(t *testing.T) {
	for n := 1; n <= 6; n++ {
		source := rand.New(rand.NewPCG(uint64(n), 1))
		b := made(t, "pcgrad", "{}", tasks(n))
		for step := range int64(20) {
			seen, gradients := seenAt(step+1, n, source)
			got := along(weigh(t, b, seen), gradients)
			order := newDraws(7)
			want := surgery(gradients, order.of(step+1))
			for k := range got {
				if !near(got[k], want[k], 1e-9) {
					t.Fatalf("%d tasks, step %d: %v, want %v", n, step, got, want)
				}
			}
		}
	}
}

func surgery(gradients [][]float64, source *rand.Rand) []float64 {
	n := len(gradients)
	sum := make([]float64, len(gradients[0]))
	for i := range gradients {
		order := make([]int, n)
		for k := range order {
			order[k] = k
		}
		for k := n - 1; k > 0; k-- {
			j := source.IntN(k + 1)
			order[k], order[j] = order[j], order[k]
		}
		g := append([]float64(nil), gradients[i]...)
		for _, j := range order {
			if product := dot(g, gradients[j]); j != i && product < 0 {
				for k := range g {
					g[k] -= product / dot(gradients[j], gradients[j]) * gradients[j][k]
				}
			}
		}
		for k := range sum {
			sum[k] += g[k]
		}
	}
	return sum
}

// TestMGDAForTwo compares with the closed form for two tasks.
func TestMGDAForTwo(t *testing.T) {
	source := rand.New(rand.NewPCG(1, 2))
	b := made(t, "mgda", "{}", tasks(2))
	for step := range int64(50) {
		seen, g := seenAt(step+1, 2, source)
		difference := along([]float64{1, -1}, g)
		gamma := max(0, min(1, (dot(g[1], g[1])-dot(g[0], g[1]))/dot(difference, difference)))
		wantWeights(t, weigh(t, b, seen), 2*gamma, 2*(1-gamma))
	}
}

// TestMGDAIsOptimal checks the conditions that only the shortest vector meets:
// every gradient's product with it is at least its square, and equal to it where
// the gradient has weight.
func TestMGDAIsOptimal(t *testing.T) {
	for n := 1; n <= 16; n++ {
		source := rand.New(rand.NewPCG(uint64(n), 3))
		b := made(t, "mgda", "{}", tasks(n))
		for step := range int64(20) {
			seen, gradients := seenAt(step+1, n, source)
			weights := weigh(t, b, seen)
			for i := range weights {
				weights[i] /= float64(n)
			}
			shortest := along(weights, gradients)
			square := dot(shortest, shortest)
			for i, g := range gradients {
				product := dot(g, shortest)
				if product < square-1e-7*max(1, square) || weights[i] > 1e-6 && !near(product, square, 1e-6) {
					t.Fatalf("%d tasks: product %v of task %d with weight %v, square %v", n, product, i, weights[i], square)
				}
			}
		}
	}
}

// TestCAGradIsBest searches the ball around the mean gradient for a direction
// that helps the worst-off task more.
func TestCAGradIsBest(t *testing.T) {
	const radius = 0.4
	source := rand.New(rand.NewPCG(4, 4))
	for range 20 {
		n := 2 + source.IntN(4)
		b := made(t, "cagrad", fmt.Sprintf("{radius: %v}", radius), tasks(n))
		gradients := make([][]float64, n)
		seen := Observation{Step: 1, Losses: make([]float64, n), Gram: make([]float64, n*n)}
		for i := range gradients {
			gradients[i] = []float64{source.NormFloat64(), source.NormFloat64()}
		}
		mean := make([]float64, 2)
		for i := range gradients {
			for j := range gradients {
				seen.Gram[i*n+j] = dot(gradients[i], gradients[j])
			}
			mean[0] += gradients[i][0] / float64(n)
			mean[1] += gradients[i][1] / float64(n)
		}
		worst := func(d []float64) float64 {
			least := math.Inf(1)
			for _, g := range gradients {
				least = min(least, dot(g, d))
			}
			return least
		}
		got := along(weigh(t, b, seen), gradients)
		for k := range got { // undo the scale
			got[k] *= (1 + radius*radius) / float64(n)
		}
		reach := radius * math.Hypot(mean[0], mean[1])
		if off := math.Hypot(got[0]-mean[0], got[1]-mean[1]); off > reach*(1+1e-9) {
			t.Fatalf("the direction is %v from the mean, allowed is %v", off, reach)
		}
		for angle := 0.0; angle < 2*math.Pi; angle += 1e-4 {
			for _, part := range []float64{0.5, 1} {
				d := []float64{mean[0] + part*reach*math.Cos(angle), mean[1] + part*reach*math.Sin(angle)}
				if worst(d) > worst(got)+1e-7 {
					t.Fatalf("%v helps the worst-off by %v, the method's %v by %v", d, worst(d), got, worst(got))
				}
			}
		}
	}
}

func TestCAGradWithoutRadiusIsTheSum(t *testing.T) {
	seen, _ := seenAt(1, 3, rand.New(rand.NewPCG(1, 1)))
	wantWeights(t, weigh(t, made(t, "cagrad", "{radius: 0}", tasks(3)), seen), 1, 1, 1)
}

// TestIMTLProjectsEqually holds the method to its definition.
func TestIMTLProjectsEqually(t *testing.T) {
	for n := 2; n <= 8; n++ {
		source := rand.New(rand.NewPCG(uint64(n), 5))
		b := made(t, "imtl", "{}", tasks(n))
		for step := range int64(20) {
			seen, gradients := seenAt(step+1, n, source)
			weights := weigh(t, b, seen)
			direction, sum := along(weights, gradients), 0.0
			for i, g := range gradients {
				sum += weights[i]
				first := dot(direction, gradients[0]) / math.Sqrt(dot(gradients[0], gradients[0]))
				if got := dot(direction, g) / math.Sqrt(dot(g, g)); !near(got, first, 1e-7) {
					t.Fatalf("%d tasks: projections %v and %v", n, first, got)
				}
			}
			if !near(sum, float64(n), 1e-9) {
				t.Errorf("the weights sum to %v, want %d", sum, n)
			}
		}
	}
}

// TestNashSolvesTheBargain holds the method to its definition, and to the
// closed form for tasks that do not touch each other.
func TestNashSolvesTheBargain(t *testing.T) {
	for n := 1; n <= 10; n++ {
		source := rand.New(rand.NewPCG(uint64(n), 6))
		b := made(t, "nash", "{}", tasks(n))
		for step := range int64(20) {
			seen, _ := seenAt(step+1, n, source)
			w, g := weigh(t, b, seen), gram{seen.Gram, n}
			norm := math.Sqrt(dot(seen.Gram, seen.Gram))
			got := make([]float64, n)
			g.times(got, w)
			for i := range got {
				if !near(got[i]/norm*w[i], 1, 1e-9) {
					t.Fatalf("%d tasks: (G w)_%d w_%d = %v, want 1", n, i, i, got[i]/norm*w[i])
				}
			}
		}
	}
	apart := Observation{Step: 1, Losses: []float64{1, 1}, Gram: []float64{9, 0, 0, 16}}
	norm := math.Sqrt(81 + 256)
	wantWeights(t, weigh(t, made(t, "nash", "{}", tasks(2)), apart), math.Sqrt(norm/9), math.Sqrt(norm/16))
}

func TestNashWithoutABargain(t *testing.T) {
	against := Observation{Step: 1, Losses: []float64{1, 1}, Gram: []float64{1, -1, -1, 1}}
	got := weigh(t, made(t, "nash", "{}", tasks(2)), against)
	if !near(got[0], got[1], 1e-6) || !(got[0] <= 1e6) {
		t.Errorf("gradients that cancel: weights %v, want equal and bounded ones", got)
	}
}

func TestDotsAndLeastCosine(t *testing.T) {
	dots := make([]float64, 9)
	Dots(dots, [][]float32{{1, 0}, {0, 2}, {-1, 1}})
	for i, want := range []float64{1, 0, -1, 0, 4, 2, -1, 2, 2} {
		if dots[i] != want {
			t.Fatalf("dot products %v, entry %d should be %v", dots, i, want)
		}
	}
	if got, want := LeastCosine(dots, 3), -1/math.Sqrt2; !near(got, want, 1e-12) {
		t.Errorf("least cosine %v, want %v", got, want)
	}
	if got := LeastCosine([]float64{0, 0, 0, 5}, 2); !math.IsNaN(got) {
		t.Errorf("least cosine with a zero gradient is %v, want NaN: not known", got)
	}
}
