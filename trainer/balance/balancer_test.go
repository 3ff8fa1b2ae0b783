package balance

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/internal/fault"
)

// TestEveryMethod is what every method must do, whatever it is.
func TestEveryMethod(t *testing.T) {
	for _, name := range Methods().Names() {
		t.Run(name, func(t *testing.T) {
			for _, n := range []int{1, 2, 3, 7} {
				resumesExactly(t, name, n)
			}
			survivesNothing(t, name)
			refuses(t, name)
			allocatesNothing(t, name)
		})
	}
}

// resumesExactly: weights are finite, and a method that is restored in the
// middle goes on with the same bits.
func resumesExactly(t *testing.T, name string, n int) {
	t.Helper()
	whole, source := made(t, name, "{}", tasks(n)), rand.New(rand.NewPCG(uint64(n), 9))
	var rest *Balancer
	for step := range int64(300) {
		if step == 157 {
			rest = made(t, name, "{}", tasks(n))
			if err := rest.Restore(whole.State(nil)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(whole.Weights(), rest.Weights()); diff != "" {
				t.Errorf("%d tasks, weights right after the restore: %s", n, diff)
			}
		}
		seen, _ := seenAt(step+1, n, source)
		want := weigh(t, whole, seen)
		for _, w := range want {
			if math.IsNaN(w) || math.IsInf(w, 0) || (w < 0 && name != "imtl") {
				t.Fatalf("%d tasks, step %d: weights %v", n, step, want)
			}
		}
		if rest == nil {
			continue
		}
		if diff := cmp.Diff(want, weigh(t, rest, seen)); diff != "" {
			t.Fatalf("%d tasks, step %d after a restore: %s", n, step, diff)
		}
	}
}

// survivesNothing: no loss, no gradient, gradients that cancel or are parallel.
func survivesNothing(t *testing.T, name string) {
	t.Helper()
	b := made(t, name, "{}", tasks(2))
	for i, seen := range []Observation{
		{Losses: []float64{0, 0}, Norms: []float64{0, 0}, Gram: []float64{0, 0, 0, 0}},
		{Losses: []float64{1, 0}, Norms: []float64{1, 0}, Gram: []float64{1, 0, 0, 0}},
		{Losses: []float64{1, 1}, Norms: []float64{1, 1}, Gram: []float64{1, -1, -1, 1}},
		{Losses: []float64{1, 1}, Norms: []float64{1, 2}, Gram: []float64{1, 2, 2, 4}},
		{Losses: []float64{1e-300, 1e300}, Norms: []float64{1e-150, 1e150}, Gram: []float64{1e-300, 1, 1, 1e300}},
	} {
		seen.Step = int64(i + 1)
		for _, w := range weigh(t, b, seen) {
			if math.IsNaN(w) || math.IsInf(w, 0) {
				t.Errorf("observation %d gives weights %v", i, b.Weights())
			}
		}
	}
}

// refuses: bad input is named, and nothing is learnt from it.
func refuses(t *testing.T, name string) {
	t.Helper()
	b := made(t, name, "{}", twoTasks())
	good, _ := seenAt(1, 2, rand.New(rand.NewPCG(1, 1)))
	weigh(t, b, good)
	before := b.State(nil)
	bad := map[string]Observation{
		"3 losses":     {Losses: []float64{1, 2, 3}, Norms: good.Norms, Gram: good.Gram},
		"\"ink\": NaN": {Losses: []float64{1, math.NaN()}, Norms: good.Norms, Gram: good.Gram},
	}
	switch b.Needs() {
	case Norms:
		bad["0 gradient norms"] = Observation{Losses: good.Losses}
		bad["\"left\": -1"] = Observation{Losses: good.Losses, Norms: []float64{-1, 1}}
	case Gram:
		bad["0 dot products"] = Observation{Losses: good.Losses}
		bad["cannot be negative"] = Observation{Losses: good.Losses, Gram: []float64{1, 0, 0, -1}}
	}
	for want, seen := range bad {
		_, err := b.Weigh(seen)
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("Weigh says %v, want an invalid fault with %q", err, want)
		}
	}
	if diff := cmp.Diff(before, b.State(nil)); diff != "" {
		t.Errorf("bad input was learnt from: %s", diff)
	}
	if err := b.Restore(before[:len(before)-1]); !fault.Is(err, fault.Invalid) {
		t.Errorf("Restore of a state cut short = %v", err)
	}
}

func allocatesNothing(t *testing.T, name string) {
	t.Helper()
	b := made(t, name, "{}", tasks(4))
	seen, _ := seenAt(1, 4, rand.New(rand.NewPCG(1, 1)))
	if allocations := testing.AllocsPerRun(20, func() { _, _ = b.Weigh(seen) }); allocations != 0 {
		t.Errorf("a step allocates %v times", allocations)
	}
}

func TestNewRefuses(t *testing.T) {
	for want, c := range map[string]struct{ name, yaml string }{
		"is not known":      {"gradnrom", "{}"},
		"there is no task":  {"static", "{weights: {rigth: 1}}"},
		"the weight of":     {"static", "{weights: {ink: -1}}"},
		"learning_rate is":  {"gradnorm", "{learning_rate: 0}"},
		"alpha is":          {"gradnorm", "{alpha: -1}"},
		"temperature is":    {"dwa", "{temperature: 0}"},
		"epoch_steps is":    {"dwa", "{epoch_steps: 0}"},
		"log_variance is":   {"uncertainty", "{log_variance: 99}"},
		"radius is":         {"cagrad", "{radius: 1}"},
		"decay is":          {"famo", "{decay: -1}"},
		"max_ratio is":      {"adaptive", "{max_ratio: 1}"},
		"memory is":         {"adaptive", "{memory: 0}"},
		"power is":          {"adaptive", "{power: .nan}"},
		"not found in type": {"equal", "{speed: 1}"},
	} {
		_, err := New(c.name, settings(t, c.yaml), Deps{Tasks: twoTasks()})
		if err == nil || (want != "not found in type" && !strings.Contains(err.Error(), want)) {
			t.Errorf("New(%s, %s) = %v, want %q", c.name, c.yaml, err, want)
		}
	}
	if _, err := New("equal", settings(t, "{}"), Deps{}); !fault.Is(err, fault.Invalid) {
		t.Errorf("New without tasks = %v", err)
	}
	if _, err := New("equal", settings(t, "{}"), Deps{Tasks: []Task{{Name: "a", InitialLoss: math.NaN()}}}); !fault.Is(err, fault.Invalid) {
		t.Errorf("New with a NaN for an initial loss = %v", err)
	}
}

// FuzzWeigh holds that finite input gives finite weights.
func FuzzWeigh(f *testing.F) {
	f.Add(1.0, 2.0, 1.0, 0.5, 4.0)
	f.Add(0.0, 0.0, 0.0, 0.0, 0.0)
	f.Add(1e-300, 1e300, 1e-200, -1.0, 1e200)
	f.Fuzz(func(t *testing.T, loss1, loss2, square1, product, square2 float64) {
		for _, value := range []float64{loss1, loss2, square1, product, square2} {
			if math.IsNaN(value) || math.Abs(value) > 1e150 {
				t.Skip()
			}
		}
		square1, square2 = math.Abs(square1), math.Abs(square2)
		if bound := math.Sqrt(square1) * math.Sqrt(square2); math.Abs(product) > bound {
			product = math.Copysign(bound, product) // as Cauchy and Schwarz have it
		}
		seen := Observation{
			Step: 1, Losses: []float64{loss1, loss2}, Norms: []float64{math.Sqrt(square1), math.Sqrt(square2)},
			Gram: []float64{square1, product, product, square2},
		}
		for _, name := range Methods().Names() {
			b := made(t, name, "{}", tasks(2))
			for range 3 {
				for _, w := range weigh(t, b, seen) {
					if math.IsNaN(w) || math.IsInf(w, 0) {
						t.Errorf("%s: weights %v of %+v", name, b.Weights(), seen)
					}
				}
				seen.Step++
			}
		}
	})
}

func BenchmarkWeigh(b *testing.B) {
	for _, name := range Methods().Names() {
		b.Run(name, func(b *testing.B) {
			balancer := made(b, name, "{}", tasks(4))
			seen, _ := seenAt(1, 4, rand.New(rand.NewPCG(1, 1)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := balancer.Weigh(seen); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
