package rules_test

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/detect"
	"github.com/vigil-ml/vigil/controlplane/detect/rules"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Where the trouble of a run begins, how long a run is, and how many ranks it has.
const (
	troubleStep = 600
	vitalSteps  = 1400
	vitalRanks  = 4
)

// ailment is what is wrong with a run: it changes a healthy report, or what an
// evaluation measured, from troubleStep on.
type ailment struct {
	kind   string
	report func(s *commonv1.StepReport, since int64)
	judge  func(e *commonv1.Evaluation, since int64)
	layer  string // to be blamed
	by     int64  // steps after which it is to be known
}

func ailments() []ailment {
	return []ailment{
		{kind: "parameters", by: 1, report: func(s *commonv1.StepReport, _ int64) { s.NonfiniteParameters = proto.Int64(3) }},
		{kind: "parameters", by: 1, report: func(s *commonv1.StepReport, _ int64) { s.ParameterNorm = proto.Float64(math.Inf(1)) }},
		{kind: "parameters", by: 50, judge: func(e *commonv1.Evaluation, _ int64) { e.Loss = proto.Float64(math.NaN()) }},
		{kind: "overfitting", by: 400, judge: func(e *commonv1.Evaluation, since int64) { *e.Loss += float64(since) / 500 }},
		{kind: "dead_units", by: 20, layer: "b", report: func(s *commonv1.StepReport, _ int64) { s.DeadRatios["b"] = 0.95 }},
		{kind: "saturated", by: 20, layer: "a", report: func(s *commonv1.StepReport, _ int64) { s.SaturatedRatios["a"] = 1 }},
		{kind: "update_ratio", by: 20, report: func(s *commonv1.StepReport, _ int64) { *s.UpdateRatio *= 1000 }},
		{kind: "update_ratio", by: 20, report: func(s *commonv1.StepReport, _ int64) { *s.UpdateRatio = 0 }},
		{kind: "weight_collapse", by: 200, layer: "ink", report: func(s *commonv1.StepReport, since int64) {
			s.TaskWeights["ink"] *= math.Exp(-float64(since) / 10)
		}},
		{kind: "gradient_conflict", by: 150, report: func(s *commonv1.StepReport, _ int64) { *s.GradientCosine -= 0.6 }},
		{kind: "slowdown", by: 160, report: func(s *commonv1.StepReport, _ int64) { *s.ComputeSeconds *= 1.5; *s.StepSeconds *= 1.5 }},
		{kind: "fragmentation", by: 400, report: func(s *commonv1.StepReport, since int64) {
			*s.GpuMemoryReservedBytes += since * 8e6
		}},
	}
}

// vitalRun is a run of four ranks that report all that can be, ill from
// troubleStep on; nil is well.
func vitalRun(seed uint64, ill *ailment) []*commonv1.Event {
	random := rand.New(rand.NewPCG(seed, 7))
	var events []*commonv1.Event
	add := func(rank uint32, step int64, e *commonv1.Event) {
		e.RunId, e.Rank, e.Node = "r", rank, fmt.Sprint("n", rank)
		e.EventId = fmt.Sprint(len(events))
		e.Time = &timestamppb.Timestamp{Seconds: step}
		events = append(events, e)
	}
	for step := int64(1); step <= vitalSteps; step++ {
		for rank := range uint32(vitalRanks) {
			s := vitalReport(random, step)
			if ill != nil && ill.report != nil && step >= troubleStep {
				ill.report(s, step-troubleStep)
			}
			add(rank, step, &commonv1.Event{Body: &commonv1.Event_Step{Step: s}})
		}
		if step%40 == 0 {
			e := &commonv1.Evaluation{Step: step, Loss: proto.Float64(1.2 + 2*math.Exp(-float64(step)/300) + 0.01*random.NormFloat64())}
			if ill != nil && ill.judge != nil && step >= troubleStep {
				ill.judge(e, step-troubleStep)
			}
			add(0, step, &commonv1.Event{Body: &commonv1.Event_Evaluation{Evaluation: e}})
		}
	}
	return events
}

// vitalReport is a report of a run that is well.
func vitalReport(random *rand.Rand, step int64) *commonv1.StepReport {
	noisy := func(v, scatter float64) *float64 { return proto.Float64(v * math.Exp(scatter*random.NormFloat64())) }
	seconds := noisy(0.2, 0.03)
	return &commonv1.StepReport{
		Step: step, Loss: noisy(1+2*math.Exp(-float64(step)/400), 0.02), GradientNorm: noisy(1, 0.1), LearningRate: proto.Float64(1e-3),
		StepSeconds: seconds, ComputeSeconds: proto.Float64(*seconds * 0.9), DataSeconds: proto.Float64(0.005),
		GpuMemoryBytes: proto.Int64(8e9), GpuMemoryReservedBytes: proto.Int64(9e9 + random.Int64N(5e8)),
		UpdateRatio: noisy(1e-3, 0.3), ParameterNorm: noisy(30, 0), NonfiniteParameters: proto.Int64(0),
		GradientCosine:  proto.Float64(0.1 + 0.2*random.NormFloat64()),
		DeadRatios:      map[string]float64{"a": 0.3, "b": 0.5 + 0.1*random.Float64()},
		SaturatedRatios: map[string]float64{"a": 0.2},
		TaskWeights:     map[string]float64{"left": 1, "right": *noisy(1, 0.1), "ink": *noisy(0.5, 0.1)},
	}
}

// TestAilments holds for each rule of training: it is quiet before the trouble,
// finds it soon, once, and names where it began.
func TestAilments(t *testing.T) {
	for _, ill := range ailments() {
		for seed := range uint64(3) {
			var of []*controlv1.Finding
			set := rules.Defaults()
			set.Modes = rules.Modes{"straggler": rules.Off} // it may explain a slowdown
			for _, f := range observe(detect.NewBank(rules.All(set)), vitalRun(seed, &ill)...) {
				if f.GetStep() < troubleStep {
					t.Errorf("%s, seed %d: found before there was trouble: %v", ill.kind, seed, f)
				}
				if f.GetKind() == ill.kind {
					of = append(of, f)
				}
			}
			if len(of) != 1 {
				t.Errorf("%s, seed %d: %d findings, want 1: %v", ill.kind, seed, len(of), of)
				continue
			}
			f := of[0]
			if f.GetStep() > troubleStep+ill.by || f.GetLayer() != ill.layer || f.GetSummary() == "" || len(f.GetEvidence()) == 0 {
				t.Errorf("%s, seed %d: want it within %d steps, layer %q: %v", ill.kind, seed, ill.by, ill.layer, f)
			}
			if f.GetOnsetStep() < troubleStep-100 || f.GetOnsetStep() > f.GetStep() {
				t.Errorf("%s, seed %d: onset %d, want about %d", ill.kind, seed, f.GetOnsetStep(), troubleStep)
			}
			for name, v := range f.GetEvidence() {
				if math.IsNaN(v) || math.IsInf(v, 0) {
					t.Errorf("%s: evidence %s is %v, which JSON has no number for", ill.kind, name, v)
				}
			}
		}
	}
}

// TestAHealthyRunIsQuiet with everything reported, and the same events give the
// same findings.
func TestAHealthyRunIsQuiet(t *testing.T) {
	for seed := range uint64(6) {
		if found := observe(detect.NewBank(all()), vitalRun(seed, nil)...); len(found) > 0 {
			t.Errorf("seed %d: %v", seed, found)
		}
	}
	for _, ill := range ailments() {
		a, b := observe(detect.NewBank(all()), vitalRun(1, &ill)...), observe(detect.NewBank(all()), vitalRun(1, &ill)...)
		if diff := cmp.Diff(a, b, protocmp.Transform()); diff != "" {
			t.Errorf("%s: -once +again:\n%s", ill.kind, diff)
		}
	}
}

// vitalKinds gives the kinds that this file tests.
func vitalKinds() []string {
	kinds := map[string]bool{}
	for _, ill := range ailments() {
		kinds[ill.kind] = true
	}
	var list []string
	for kind := range maps.Keys(kinds) {
		list = append(list, kind)
	}
	return list
}

// TestADeclaredChangeIsNoTrouble: the ailments of pace and loss that a trainer
// announces are meant.
func TestADeclaredChangeIsNoTrouble(t *testing.T) {
	for _, ill := range ailments() {
		var phase commonv1.PhaseKind
		switch ill.kind {
		case "slowdown":
			phase = commonv1.PhaseKind_PHASE_KIND_SEQUENCE_LENGTH_CHANGE
		case "weight_collapse":
			phase = commonv1.PhaseKind_PHASE_KIND_LOSS_CHANGE
			ill.report = func(s *commonv1.StepReport, _ int64) { s.TaskWeights["ink"] = 0.001 }
		default:
			continue
		}
		bank := detect.NewBank(all())
		for _, e := range vitalRun(1, &ill) {
			if e.GetStep().GetStep() == troubleStep && e.GetRank() == 0 {
				bank.Observe(&commonv1.Event{RunId: "r", Body: &commonv1.Event_Phase{Phase: &commonv1.Phase{
					Kind: phase, Edge: commonv1.PhaseEdge_PHASE_EDGE_BEGIN, Step: troubleStep - 1}}})
			}
			if found := bank.Observe(e); len(found) > 0 {
				t.Errorf("%s was declared: %v", ill.kind, found)
			}
		}
	}
}

// TestMoreRanksAreAChange that nobody needs to declare: the same attempt has
// another number of ranks, and its steps take another time.
func TestMoreRanksAreAChange(t *testing.T) {
	slow := ailments()[10]
	if slow.kind != "slowdown" {
		t.Fatalf("the ailment is %s", slow.kind)
	}
	bank := detect.NewBank(all())
	register := func(world uint32) {
		bank.Observe(&commonv1.Event{RunId: "r", Body: &commonv1.Event_TrainerRegistered{TrainerRegistered: &commonv1.TrainerRegistered{WorldSize: world}}})
	}
	register(4)
	for _, e := range vitalRun(1, &slow) {
		if e.GetStep().GetStep() == troubleStep && e.GetRank() == 0 {
			register(8)
		}
		if found := bank.Observe(e); len(found) > 0 {
			t.Errorf("found %v", found)
		}
	}
}

// TestLateDecayIsMeant: updates become small as the learning rate does.
func TestLateDecayIsMeant(t *testing.T) {
	decay := ailment{report: func(s *commonv1.StepReport, since int64) {
		left := math.Exp(-float64(since) / 20)
		*s.LearningRate *= left
		*s.UpdateRatio *= left
	}}
	if found := observe(detect.NewBank(all()), vitalRun(1, &decay)...); len(found) > 0 {
		t.Errorf("found %v", found)
	}
}
