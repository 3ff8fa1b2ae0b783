package rules_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/vigil-ml/vigil/controlplane/detect"
	"github.com/vigil-ml/vigil/controlplane/detect/rules"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func all() []detect.Rule { return []detect.Rule{rules.NonFinite(), rules.Divergence()} }

// at is an event of a run's attempt 0.
func at(rank uint32, s *commonv1.StepReport) *commonv1.Event {
	return &commonv1.Event{
		RunId: "r", Rank: rank, Node: fmt.Sprint("n", rank),
		Body: &commonv1.Event_Step{Step: s},
	}
}

func loss(rank uint32, step int64, v float64) *commonv1.Event {
	return at(rank, &commonv1.StepReport{Step: step, Loss: &v})
}

// series is one rank's losses from step 1 on.
func series(values ...float64) []*commonv1.Event {
	var events []*commonv1.Event
	for i, v := range values {
		events = append(events, loss(0, int64(i+1), v))
	}
	return events
}

func observe(bank *detect.Bank, events ...*commonv1.Event) []*controlv1.Finding {
	var found []*controlv1.Finding
	for _, event := range events {
		found = append(found, bank.Observe(event)...)
	}
	return found
}

// randomRun is a run of several ranks and attempts in which much goes wrong.
func randomRun(run string, random *rand.Rand, n int) []*commonv1.Event {
	var events []*commonv1.Event
	step, attempt, level := int64(0), uint32(0), 1.0
	for range n {
		switch random.IntN(40) {
		case 0:
			step = max(0, step-random.Int64N(5))
		case 1:
			attempt++
		case 2:
			level *= 3
		case 3:
			level /= 3
		}
		e := &commonv1.Event{RunId: run, Attempt: attempt, Rank: uint32(random.IntN(3)), Node: "n"}
		if e.Rank == 0 {
			step++
		}
		v, norm := level*(1+random.Float64()/4), random.Float64()
		switch random.IntN(50) {
		case 0:
			v = math.NaN()
		case 1:
			norm = math.Inf(1)
		}
		e.Body = &commonv1.Event_Step{Step: &commonv1.StepReport{Step: step, Loss: &v, GradientNorm: &norm}}
		if random.IntN(60) == 0 {
			e.Body = &commonv1.Event_NonFinite{NonFinite: &commonv1.NonFinite{Step: step, NanCount: 1}}
		}
		events = append(events, e)
	}
	return events
}

// TestProperties holds for every rule: the same events give the same findings,
// other runs in between change nothing, and events are left as they were.
func TestProperties(t *testing.T) {
	kinds := map[string]int{}
	for seed := range uint64(40) {
		random := rand.New(rand.NewPCG(seed, 1))
		a, b := randomRun("a", random, 400), randomRun("b", random, 400)
		before := proto.CloneOf(a[200])

		alone := append(observe(detect.NewBank(all()), a...), observe(detect.NewBank(all()), b...)...)
		shared := detect.NewBank(all())
		together := map[string][]*controlv1.Finding{}
		for i := range a {
			together["a"] = append(together["a"], observe(shared, a[i])...)
			together["b"] = append(together["b"], observe(shared, b[i])...)
		}
		if diff := cmp.Diff(alone, append(together["a"], together["b"]...), protocmp.Transform()); diff != "" {
			t.Fatalf("seed %d: -alone +interleaved:\n%s", seed, diff)
		}
		if !proto.Equal(before, a[200]) { // to cmp, no NaN is another
			t.Fatalf("seed %d: an event was changed: %v, was %v", seed, a[200], before)
		}
		for _, f := range alone {
			kinds[f.GetKind()]++
			if f.GetSummary() == "" || f.GetNode() == "" || f.GetOnsetStep() > f.GetStep() {
				t.Fatalf("seed %d: a finding is not complete: %v", seed, f)
			}
			for name, v := range f.GetEvidence() {
				if math.IsNaN(v) || math.IsInf(v, 0) {
					t.Fatalf("seed %d: evidence %s is %v, which JSON cannot have as a number", seed, name, v)
				}
			}
		}
	}
	if kinds["nonfinite"] == 0 || kinds["divergence"] == 0 {
		t.Errorf("the random runs gave %v: some rule was never put to the test", kinds)
	}
}

// TestSteadyStateAllocatesNothing holds the budget that lets one process watch
// ten thousand runs.
func TestSteadyStateAllocatesNothing(t *testing.T) {
	bank := detect.NewBank(all())
	v, s := 1.0, &commonv1.StepReport{}
	s.Loss, s.GradientNorm = &v, &v
	event := at(0, s)
	bank.Observe(event)
	allocations := testing.AllocsPerRun(1000, func() {
		s.Step++
		bank.Observe(event)
	})
	if allocations != 0 {
		t.Errorf("Observe of a healthy step allocates %v times", allocations)
	}
}

func BenchmarkObserve(b *testing.B) {
	bank := detect.NewBank(all())
	v, s := 1.0, &commonv1.StepReport{}
	s.Loss, s.GradientNorm = &v, &v
	event := at(0, s)
	b.ReportAllocs()
	for b.Loop() {
		s.Step++
		bank.Observe(event)
	}
}
