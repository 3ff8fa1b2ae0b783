package balance

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/vigil-ml/vigil/internal/conf"
)

// twoTasks is a classifier and a regression.
func twoTasks() []Task {
	return []Task{{Name: "left", Kind: Classification}, {Name: "ink", Kind: Regression}}
}

// tasks is n regressions.
func tasks(n int) []Task {
	list := make([]Task, n)
	for i := range list {
		list[i] = Task{Name: string(rune('a' + i)), Kind: Regression}
	}
	return list
}

// settings turns YAML into a part of a configuration file.
func settings(t testing.TB, yaml string) conf.Raw {
	t.Helper()
	var file struct {
		Part conf.Raw `yaml:"part"`
	}
	if err := conf.Decode("test.yaml", []byte("part: "+yaml), &file); err != nil {
		t.Fatal(err)
	}
	return file.Part
}

// made makes a balancer.
func made(t testing.TB, name, yaml string, list []Task) *Balancer {
	t.Helper()
	b, err := New(name, settings(t, yaml), Deps{Tasks: list, Seed: 7})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// weigh gives a copy of the weights.
func weigh(t testing.TB, b *Balancer, seen Observation) []float64 {
	t.Helper()
	weights, err := b.Weigh(seen)
	if err != nil {
		t.Fatal(err)
	}
	return append([]float64(nil), weights...)
}

func near(a, b, tolerance float64) bool { return math.Abs(a-b) <= tolerance*max(1, math.Abs(b)) }

func wantWeights(t *testing.T, got []float64, want ...float64) {
	t.Helper()
	for i := range want {
		if !near(got[i], want[i], 1e-9) {
			t.Fatalf("weights %v, want %v", got, want)
		}
	}
}

// seenAt is an observation with everything in it, made from random gradients.
func seenAt(step int64, n int, source *rand.Rand) (Observation, [][]float64) {
	gradients := make([][]float64, n)
	seen := Observation{Step: step, Losses: make([]float64, n), Norms: make([]float64, n), Gram: make([]float64, n*n)}
	for i := range gradients {
		gradients[i] = make([]float64, 12)
		for k := range gradients[i] {
			gradients[i][k] = source.NormFloat64() * float64(i+1)
		}
		seen.Losses[i] = source.ExpFloat64() * float64(i+1)
	}
	for i := range gradients {
		for j := range gradients {
			seen.Gram[i*n+j] = dot(gradients[i], gradients[j])
		}
		seen.Norms[i] = math.Sqrt(seen.Gram[i*n+i])
	}
	return seen, gradients
}

// along is the sum of the gradients, weighted.
func along(weights []float64, gradients [][]float64) []float64 {
	sum := make([]float64, len(gradients[0]))
	for i, w := range weights {
		for k, g := range gradients[i] {
			sum[k] += w * g
		}
	}
	return sum
}

func TestEqualAndStatic(t *testing.T) {
	seen := Observation{Step: 1, Losses: []float64{1, 2}}
	wantWeights(t, weigh(t, made(t, "equal", "{}", twoTasks()), seen), 1, 1)
	wantWeights(t, weigh(t, made(t, "static", "{weights: {ink: 0.25}}", twoTasks()), seen), 1, 0.25)
}

func TestUncertainty(t *testing.T) {
	// Loss of the method as a function of s, for finite differences.
	value := func(factor, s, loss float64) float64 { return factor*math.Exp(-s)*loss + s/2 }
	b := made(t, "uncertainty", "{log_variance: 0.3}", twoTasks())
	losses := []float64{2.5, 0.2}
	weigh(t, b, Observation{Step: 1, Losses: losses})
	for i, factor := range []float64{1, 0.5} {
		const h = 1e-6
		want := (value(factor, 0.3+h, losses[i]) - value(factor, 0.3-h, losses[i])) / (2 * h)
		if got := b.method.(*uncertainty).gradient[i]; !near(got, want, 1e-8) {
			t.Errorf("task %d: gradient %v, finite difference %v", i, got, want)
		}
	}
	for step := range int64(4000) {
		weigh(t, b, Observation{Step: step + 2, Losses: losses})
	}
	got := weigh(t, b, Observation{Step: 5000, Losses: losses})
	for i, loss := range losses {
		if want := 1 / (2 * loss); !near(got[i], want, 1e-3) {
			t.Errorf("task %d settles at %v, want 1/(2 loss) = %v", i, got[i], want)
		}
	}
}

func TestUncertaintyIsBounded(t *testing.T) {
	b := made(t, "uncertainty", "{learning_rate: 10}", twoTasks())
	for step := range int64(50) {
		weigh(t, b, Observation{Step: step + 1, Losses: []float64{0, -3}})
	}
	got := weigh(t, b, Observation{Step: 51, Losses: []float64{0, -3}})
	if want := math.Exp(maxLogVariance); !near(got[0], want, 1e-9) {
		t.Errorf("a loss of 0 has weight %v, want the bound %v", got[0], want)
	}
}

func TestGradNormGradient(t *testing.T) {
	list := tasks(3)
	b := made(t, "gradnorm", "{alpha: 0.7}", list)
	m := b.method.(*gradNorm)
	first := Observation{Step: 1, Losses: []float64{1, 4, 2}, Norms: []float64{3, 0.5, 1}}
	weigh(t, b, first)
	before := append([]float64(nil), m.weights...)
	second := Observation{Step: 2, Losses: []float64{0.9, 1, 1.5}, Norms: []float64{2, 1, 4}}
	// The targets, as the paper writes them, are constants to the gradient.
	rates := []float64{0.9, 0.25, 0.75}
	mean, norm := (0.9+0.25+0.75)/3, 0.0
	for i, w := range before {
		norm += w * second.Norms[i] / 3
	}
	value := func(w []float64) (sum float64) {
		for i := range w {
			sum += math.Abs(w[i]*second.Norms[i] - norm*math.Pow(rates[i]/mean, 0.7))
		}
		return sum
	}
	wantWeights(t, weigh(t, b, second), before...)
	for i := range before {
		const h = 1e-7
		up, down := append([]float64(nil), before...), append([]float64(nil), before...)
		up[i] += h
		down[i] -= h
		if want := (value(up) - value(down)) / (2 * h); !near(m.gradient[i], want, 1e-6) {
			t.Errorf("task %d: gradient %v, finite difference %v", i, m.gradient[i], want)
		}
	}
	sum := 0.0
	for _, w := range m.weights {
		sum += w
	}
	if !near(sum, 3, 1e-12) {
		t.Errorf("the weights sum to %v, want the number of tasks", sum)
	}
}

// TestGradNormEvensOut holds the method to its purpose: with alpha 0 the
// weighted norms become equal.
func TestGradNormEvensOut(t *testing.T) {
	b := made(t, "gradnorm", "{alpha: 0, learning_rate: 0.001}", tasks(2))
	var got []float64
	for step := range int64(5000) {
		got = weigh(t, b, Observation{Step: step + 1, Losses: []float64{1, 1}, Norms: []float64{1, 3}})
	}
	if ratio := got[0] / (3 * got[1]); !near(ratio, 1, 0.02) {
		t.Errorf("weighted norms have the ratio %v, want 1; weights %v", ratio, got)
	}
}

func TestDynamicWeightAverage(t *testing.T) {
	b := made(t, "dwa", "{epoch_steps: 2, temperature: 2}", tasks(2))
	var got []float64
	for step, losses := range [][]float64{{4, 4}, {2, 2}, {2, 3}, {1, 3}, {1, 1}} {
		if step < 4 {
			got = weigh(t, b, Observation{Step: int64(step + 1), Losses: losses})
			wantWeights(t, got, 1, 1)
			continue
		}
		got = weigh(t, b, Observation{Step: int64(step + 1), Losses: losses})
	}
	// Epoch means 3, 3 then 1.5, 3: rates 0.5 and 1.
	first, second := math.Exp(0.5/2), math.Exp(1.0/2)
	wantWeights(t, got, 2*first/(first+second), 2*second/(first+second))
}

func TestRandomDependsOnSeedAndStep(t *testing.T) {
	seen := Observation{Step: 5, Losses: []float64{1, 1}}
	a, b := weigh(t, made(t, "random", "{}", tasks(2)), seen), weigh(t, made(t, "random", "{}", tasks(2)), seen)
	wantWeights(t, a, b...)
	if !near(a[0]+a[1], 2, 1e-12) {
		t.Errorf("the weights %v do not sum to 2", a)
	}
	seen.Step = 6
	if c := weigh(t, made(t, "random", "{}", tasks(2)), seen); c[0] == a[0] {
		t.Errorf("two steps have the weights %v", c)
	}
	other, err := New("random", settings(t, "{}"), Deps{Tasks: tasks(2), Seed: 8})
	if err != nil {
		t.Fatal(err)
	}
	seen.Step = 5
	if c := weigh(t, other, seen); c[0] == a[0] {
		t.Errorf("two seeds have the weights %v", c)
	}
}

// TestRandomIsOfItsDistribution: the logarithm of two weights' ratio is the
// difference of two standard normal numbers.
func TestRandomIsOfItsDistribution(t *testing.T) {
	b := made(t, "random", "{}", tasks(2))
	const steps = 20000
	sum, square := 0.0, 0.0
	for step := range int64(steps) {
		w := weigh(t, b, Observation{Step: step + 1, Losses: []float64{1, 1}})
		x := math.Log(w[0] / w[1])
		sum += x / steps
		square += x * x / steps
	}
	if math.Abs(sum) > 0.05 || math.Abs(square-2) > 0.1 {
		t.Errorf("mean %.3f and mean square %.3f, want 0 and 2", sum, square)
	}
}

func TestGeometricIsTheGradientOfTheMean(t *testing.T) {
	losses := []float64{0.5, 8, 2}
	value := func(l []float64) float64 { return 3 * math.Cbrt(l[0]*l[1]*l[2]) }
	got := weigh(t, made(t, "geometric", "{}", tasks(3)), Observation{Step: 1, Losses: losses})
	for i := range losses {
		const h = 1e-6
		up, down := append([]float64(nil), losses...), append([]float64(nil), losses...)
		up[i] += h
		down[i] -= h
		if want := (value(up) - value(down)) / (2 * h); !near(got[i], want, 1e-7) {
			t.Errorf("task %d: weight %v, finite difference %v", i, got[i], want)
		}
	}
}

func TestFAMO(t *testing.T) {
	b := made(t, "famo", "{}", tasks(2))
	m := b.method.(*famo)
	got := weigh(t, b, Observation{Step: 1, Losses: []float64{1, 4}})
	wantWeights(t, got, 2*1/1.25, 2*0.25/1.25)
	// The first task falls, the second does not: weight must move to the second.
	weigh(t, b, Observation{Step: 2, Losses: []float64{0.5, 4}})
	delta := []float64{math.Log(2), 0}
	value := func(logits []float64) float64 {
		shares := append([]float64(nil), logits...)
		softmax(shares)
		return dot(shares, delta)
	}
	for i := range delta {
		const h = 1e-6
		up, down := []float64{0, 0}, []float64{0, 0}
		up[i] += h
		down[i] -= h
		if want := (value(up) - value(down)) / (2 * h); !near(m.gradient[i], want, 1e-8) {
			t.Errorf("task %d: gradient %v, finite difference %v", i, m.gradient[i], want)
		}
	}
	if !(m.logits[1] > m.logits[0]) {
		t.Errorf("logits %v: the task that does not fall has not gained", m.logits)
	}
}

func TestAdaptiveHelpsWhoLags(t *testing.T) {
	b := made(t, "adaptive", "{memory: 1}", tasks(3))
	weigh(t, b, Observation{Step: 1, Losses: []float64{1, 10, 100}})
	got := weigh(t, b, Observation{Step: 2, Losses: []float64{0.5, 10, 0}})
	// Ratios 0.5, 1 and 0, the last raised to a tenth of the greatest.
	wantWeights(t, got, 3*0.5/1.6, 3*1/1.6, 3*0.1/1.6)
}
