package rules_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/detect"
	"github.com/vigil-ml/vigil/controlplane/detect/rules"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func all() []detect.Rule { return rules.All(rules.Defaults()) }

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

// trouble is what goes wrong in a random run.
type trouble struct{ loss, gradient, step, data, leak float64 }

// randomRun is a run of several ranks and attempts in which much goes wrong,
// one thing after the other, with calm between.
func randomRun(run string, random *rand.Rand, n int) []*commonv1.Event {
	var events []*commonv1.Event
	step, attempt, now := int64(0), uint32(0), 0.0
	resident := 1e9
	calm := trouble{1, 1, 1, 1, 0}
	bad := calm
	for i := range n {
		if i%300 == 0 {
			bad = calm
		}
		if i%300 == 250 {
			bad = []trouble{{3, 1, 1, 1, 0}, {1, 100, 1, 1, 0}, {1, 0, 1, 1, 0}, {1, 1, 3, 1, 0}, {1, 1, 1, 300, 0}, {1, 1, 1, 1, 1e6}}[random.IntN(6)]
		}
		if i%900 == 899 {
			step, attempt = max(0, step-5), attempt+1
		}
		e := &commonv1.Event{RunId: run, Attempt: attempt, Rank: uint32(i % 2), Node: "n"}
		if e.Rank == 0 {
			step++
			now += 0.1
			resident += bad.leak
		}
		if random.IntN(2000) == 0 {
			now += 30 // and a tick tells of it
			e.Body = &commonv1.Event_Tick{Tick: &commonv1.Tick{LastStep: step}}
		}
		if i%900 == 898 {
			e.Body = &commonv1.Event_AttemptEnded{AttemptEnded: &commonv1.AttemptEnded{
				Restarting: true, Recovery: &commonv1.Recovery{Page: true, Decision: "again"}}}
		}
		e.Time = timestamppb.New(time.UnixMilli(int64(now * 1000)))
		loss, norm := bad.loss*(1+random.Float64()/8), bad.gradient*(1+random.Float64())
		seconds, data := bad.step*(0.1+random.Float64()/100), 0.001*bad.data
		bytes := int64(resident)
		switch random.IntN(1500) {
		case 0:
			loss = math.NaN()
		case 1:
			norm = math.Inf(1)
		case 2:
			loss *= 5
		}
		if e.Body == nil {
			e.Body = &commonv1.Event_Step{Step: &commonv1.StepReport{
				Step: step, Loss: &loss, GradientNorm: &norm, StepSeconds: &seconds, DataSeconds: &data, ResidentBytes: &bytes}}
		}
		events = append(events, e)
	}
	return events
}

// TestProperties holds for every rule: the same events give the same findings,
// other runs in between change nothing, and events are left as they were.
func TestProperties(t *testing.T) {
	kinds := map[string]int{}
	for seed := range uint64(12) {
		random := rand.New(rand.NewPCG(seed, 1))
		a, b := randomRun("a", random, 4000), randomRun("b", random, 4000)
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
			if f.GetSummary() == "" || (f.GetNode() == "") != f.GetBlameUnknown() || f.GetOnsetStep() > f.GetStep() {
				t.Fatalf("seed %d: a finding is not complete: %v", seed, f)
			}
			for name, v := range f.GetEvidence() {
				if math.IsNaN(v) || math.IsInf(v, 0) {
					t.Fatalf("seed %d: evidence %s is %v, which JSON cannot have as a number", seed, name, v)
				}
			}
		}
	}
	for _, rule := range all() {
		if kinds[rule.Code] == 0 && !rule.OnlyCaused && !slices.Contains(vitalKinds(), rule.Code) {
			t.Errorf("the random runs gave %v: %s was never put to the test", kinds, rule.Code)
		}
	}
}

// full is a report in which everything is measured.
func full() *commonv1.Event {
	v, seconds, data, bytes := 1.0, 0.1, 0.001, int64(1e9)
	return at(0, &commonv1.StepReport{
		Loss: &v, GradientNorm: &v, StepSeconds: &seconds, DataSeconds: &data, ResidentBytes: &bytes, GpuMemoryBytes: &bytes})
}

// TestSteadyStateAllocatesNothing holds the budget that lets one process watch
// ten thousand runs.
func TestSteadyStateAllocatesNothing(t *testing.T) {
	bank := detect.NewBank(all())
	event := full()
	s := event.GetStep()
	for range 1000 {
		s.Step++
		bank.Observe(event)
	}
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
	event := full()
	s := event.GetStep()
	b.ReportAllocs()
	for b.Loop() {
		s.Step++
		bank.Observe(event)
	}
}
