package rules_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// row is one report of a synthetic run, or, with still, seconds of no step.
type row struct {
	loss, gradient, step, data, resident float64
	tokens                               int64
	still                                float64
	phase                                *commonv1.Phase
}

// synthetic gives the events of a run of one rank: a healthy row with its
// noise, as change leaves it.
func synthetic(seed uint64, rows int, change func(i int, r *row)) []*commonv1.Event {
	random := rand.New(rand.NewPCG(seed, 9))
	now := 0.0
	var events []*commonv1.Event
	add := func(step int64, e *commonv1.Event) {
		e.RunId, e.Node = "r", "n0"
		e.Time = timestamppb.New(time.UnixMilli(int64(now * 1000)))
		events = append(events, e)
	}
	for i := range rows {
		step := int64(i + 1)
		r := row{
			loss: (2 + 3*math.Exp(-float64(i)/200)) * math.Exp(0.03*random.NormFloat64()), gradient: math.Exp(0.3 * random.NormFloat64()),
			step: 0.1 * math.Exp(0.05*random.NormFloat64()), data: 0.002, resident: 1e9 + 1e5*random.Float64(),
		}
		change(i, &r)
		if r.phase != nil {
			add(step, &commonv1.Event{Body: &commonv1.Event_Phase{Phase: r.phase}})
		}
		for waited := 0.5; waited < r.still; waited += 0.5 {
			now += 0.5
			add(step, &commonv1.Event{Body: &commonv1.Event_Tick{Tick: &commonv1.Tick{LastStep: step - 1}}})
		}
		now += r.step
		report := &commonv1.StepReport{Step: step, Loss: &r.loss, GradientNorm: &r.gradient, StepSeconds: &r.step, DataSeconds: &r.data}
		bytes := int64(r.resident)
		if report.ResidentBytes = &bytes; r.tokens > 0 {
			report.Tokens = &r.tokens
		}
		add(step, &commonv1.Event{Body: &commonv1.Event_Step{Step: report}})
	}
	return events
}

func from(onset int, change func(i int, r *row)) func(int, *row) {
	return func(i int, r *row) {
		if i >= onset {
			change(i-onset, r)
		}
	}
}

func declared(at int, kind commonv1.PhaseKind, and func(i int, r *row)) func(int, *row) {
	return func(i int, r *row) {
		if i == at {
			r.phase = &commonv1.Phase{Kind: kind, Edge: commonv1.PhaseEdge_PHASE_EDGE_BEGIN, Step: int64(i)}
		}
		and(i, r)
	}
}

const warning, critical = commonv1.Severity_SEVERITY_WARNING, commonv1.Severity_SEVERITY_CRITICAL

// TestKinds has every fault, and what looks like it and is none, on several
// seeds of noise: exactly the kinds that are wanted are found, no sooner than
// the onset and within so many rows.
func TestKinds(t *testing.T) {
	const onset = 400
	type want struct {
		kind     string
		severity commonv1.Severity
		within   int
	}
	tests := map[string]struct {
		change func(i int, r *row)
		want   []want
	}{
		"healthy": {func(int, *row) {}, nil},
		"spike": {from(onset, func(i int, r *row) {
			if i < 2 {
				r.loss *= 1.8
			}
		}), []want{{"spike", warning, 0}}},
		"blow-up": {from(onset, func(i int, r *row) { r.loss *= math.Exp(float64(i+1) / 2) }),
			[]want{{"spike", warning, 1}, {"divergence", critical, 9}}},
		"stays high": {from(onset, func(_ int, r *row) { r.loss *= 5 }),
			[]want{{"spike", warning, 0}, {"divergence", critical, 10}}},
		"slow drift": {from(onset, func(i int, r *row) { r.loss *= 1 + float64(min(i, 100))/500 }),
			[]want{{"divergence", warning, 200}}},
		"rises and turns NaN": {from(onset, func(i int, r *row) {
			if r.loss *= 3; i > 0 {
				r.loss = math.NaN()
			}
		}), []want{{"spike", warning, 0}, {"divergence", critical, 1}, {"nonfinite", critical, 1}}},
		"declared change of data": {declared(onset, commonv1.PhaseKind_PHASE_KIND_DATA_CHANGE,
			from(onset, func(_ int, r *row) { r.loss, r.gradient = 5*r.loss, 30*r.gradient })), nil},
		"explosion": {from(onset, func(_ int, r *row) { r.gradient *= 100 }), []want{{"explosion", critical, 8}}},
		"one wild gradient": {from(onset, func(i int, r *row) {
			if i < 3 {
				r.gradient *= 1e6
			}
		}), nil},
		"vanishing": {from(onset, func(_ int, r *row) { r.gradient /= 100 }), []want{{"vanishing", critical, 8}}},
		"fits its data at last": {from(onset, func(i int, r *row) {
			fall := math.Exp(-float64(min(i, 40)) / 10)
			r.loss, r.gradient = r.loss*fall, r.gradient*fall
		}), nil},
		"zero gradient": {from(onset, func(_ int, r *row) { r.gradient = 0 }), []want{{"vanishing", critical, 4}}},
		"leak":          {from(onset, func(i int, r *row) { r.resident += 5e5 * float64(i) }), []want{{"leak", critical, 200}}},
		"a cache fills": {func(i int, r *row) { r.resident += 1e6 * float64(min(i, 150)) }, nil},
		"memory saws":   {func(i int, r *row) { r.resident += 3e6 * float64(i%50) }, nil},
		"memory jumps":  {from(onset, func(_ int, r *row) { r.resident += 3e8 }), nil},
		"straggler":     {from(onset, func(_ int, r *row) { r.step *= 2 }), []want{{"straggler", warning, 13}}},
		"every fourth step slow": {from(onset, func(i int, r *row) {
			if i%4 == 0 {
				r.step *= 5
			}
		}), []want{{"straggler", warning, 24}}},
		"longer sequences": {func(i int, r *row) {
			if r.tokens = 1000; i >= onset {
				r.tokens, r.step = 3000, r.step*3
			}
		}, nil},
		"starvation": {from(onset, func(_ int, r *row) { r.data, r.step = 0.2, r.step+0.2 }), []want{{"starvation", warning, 10}}},
		"one slow file": {from(onset, func(i int, r *row) {
			if i == 0 {
				r.data, r.step = 3, r.step+3
			}
		}), nil},
		"hang":                {from(onset, func(i int, r *row) { r.still = 20 * float64(max(0, 1-i)) }), []want{{"hang", critical, 0}}},
		"a pause":             {from(onset, func(i int, r *row) { r.still = 8 * float64(max(0, 1-i)) }), nil},
		"declared evaluation": {declared(onset, commonv1.PhaseKind_PHASE_KIND_EVALUATION, from(onset, func(i int, r *row) { r.still = 90 * float64(max(0, 1-i)) })), nil},
	}
	for name, test := range tests {
		for seed := range uint64(5) {
			t.Run(fmt.Sprint(name, " ", seed), func(t *testing.T) {
				events := synthetic(seed, 700, test.change)
				var missing []string
				for _, w := range test.want {
					missing = append(missing, w.kind)
				}
				for _, f := range observe(detect.NewBank(all()), events...) {
					i := slices.IndexFunc(test.want, func(w want) bool { return w.kind == f.GetKind() })
					if i < 0 || !slices.Contains(missing, f.GetKind()) {
						t.Errorf("found %s at step %d: %s", f.GetKind(), f.GetStep(), f.GetSummary())
						continue
					}
					missing = slices.DeleteFunc(missing, func(kind string) bool { return kind == f.GetKind() })
					w, late := test.want[i], int(f.GetStep())-onset-1
					if f.GetKind() == "hang" {
						late++ // its step is the one before
					}
					if late < 0 || late > w.within || f.GetSeverity() != w.severity {
						t.Errorf("%s, %v, %d rows after the onset; want %v, within %d", w.kind, f.GetSeverity(), late, w.severity, w.within)
					}
				}
				if len(missing) > 0 {
					t.Errorf("did not find %v", missing)
				}
			})
		}
	}
}

// TestFindingsNameTheOnset: where a fault begins with one step, that step is
// named, though it takes some more to be sure.
func TestFindingsNameTheOnset(t *testing.T) {
	for kind, change := range map[string]func(i int, r *row){
		"divergence": func(_ int, r *row) { r.loss *= 5 },
		"explosion":  func(_ int, r *row) { r.gradient *= 100 },
		"vanishing":  func(_ int, r *row) { r.gradient /= 100 },
		"straggler":  func(_ int, r *row) { r.step *= 2 },
		"starvation": func(_ int, r *row) { r.data, r.step = 0.2, r.step+0.2 },
	} {
		for seed := range uint64(5) {
			for _, f := range observe(detect.NewBank(all()), synthetic(seed, 500, from(400, change))...) {
				if f.GetKind() == kind && f.GetOnsetStep() != 401 {
					t.Errorf("%s, seed %d: onset %d, found at %d; want 401", kind, seed, f.GetOnsetStep(), f.GetStep())
				}
			}
		}
	}
}

// TestPlateau is apart, since every other run here must not be one.
func TestPlateau(t *testing.T) {
	flat := func(at int) func(int, *row) {
		level := 0.0
		return func(i int, r *row) {
			if i == at {
				level = r.loss
			}
			if i >= at {
				r.loss = level * r.loss / (2 + 3*math.Exp(-float64(i)/200))
			}
		}
	}
	kinds := func(findings []*controlv1.Finding) (all []string) {
		for _, f := range findings {
			all = append(all, f.GetKind())
		}
		return all
	}
	for seed := range uint64(5) {
		if got := kinds(observe(detect.NewBank(all()), synthetic(seed, 1000, flat(150))...)); !slices.Equal(got, []string{"plateau"}) {
			t.Errorf("seed %d: of a loss that stopped falling: %v", seed, got)
		}
	}
}

// TestAWarningThatBecomesWorseIsSaidAgain has a loss that settles above its
// level and then blows up.
func TestAWarningThatBecomesWorseIsSaidAgain(t *testing.T) {
	events := synthetic(1, 700, from(300, func(i int, r *row) {
		if r.loss *= 1.5; i > 250 {
			r.loss *= math.Exp(float64(i-250) / 2)
		}
	}))
	var got []commonv1.Severity
	ids := map[string]bool{}
	for _, f := range observe(detect.NewBank(all()), events...) {
		if f.GetKind() == "divergence" {
			got, ids[f.GetFindingId()] = append(got, f.GetSeverity()), true
		}
	}
	if !slices.Equal(got, []commonv1.Severity{warning, critical}) || len(ids) != 2 {
		t.Errorf("divergences of severity %v, %d ids; want a warning and a critical one", got, len(ids))
	}
}

// TestOneFindingForAllRanks has every rank starve at once, as they do.
func TestOneFindingForAllRanks(t *testing.T) {
	bank, found := detect.NewBank(all()), 0
	events := synthetic(1, 500, from(300, func(_ int, r *row) { r.data, r.step = 0.2, r.step+0.2 }))
	for _, e := range events {
		for rank := range uint32(4) {
			e.Rank = rank
			found += len(bank.Observe(e))
		}
	}
	if found != 1 {
		t.Errorf("found %d, want one", found)
	}
}

func BenchmarkKinds(b *testing.B) {
	for _, rule := range all() {
		b.Run(rule.Code, func(b *testing.B) {
			bank, event := detect.NewBank([]detect.Rule{rule}), full()
			s := event.GetStep()
			b.ReportAllocs()
			for b.Loop() {
				s.Step++
				bank.Observe(event)
			}
		})
	}
}

// BenchmarkNewRun shows what a run of one rank takes of memory.
func BenchmarkNewRun(b *testing.B) {
	for _, rule := range all() {
		b.Run(rule.Code, func(b *testing.B) {
			event := full()
			b.ReportAllocs()
			for b.Loop() {
				rule.New().Observe(event)
			}
		})
	}
}
