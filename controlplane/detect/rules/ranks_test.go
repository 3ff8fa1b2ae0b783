package rules_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// gang makes the events of a run of eight ranks, two on a node, that train in
// lockstep with steps of 0.1 s.
type gang struct {
	random *rand.Rand
	now    float64
	step   int64
	events []*commonv1.Event
}

const gangRanks = 8

func newGang(seed uint64) *gang { return &gang{random: rand.New(rand.NewPCG(seed, 3))} }

func (g *gang) add(rank uint32, e *commonv1.Event) {
	e.RunId, e.Rank, e.Node = "r", rank, fmt.Sprint("n", rank/2)
	e.Time = timestamppb.New(time.UnixMilli(int64(g.now * 1000)))
	g.events = append(g.events, e)
}

// report sends a rank's report of the present step.
func (g *gang) report(rank uint32, change func(rank uint32, s *commonv1.StepReport)) {
	compute, data, communicate := 0.08*math.Exp(0.05*g.random.NormFloat64()), 0.001, 0.02
	step, loss, bytes := 0.1, 8/math.Sqrt(float64(g.step)+10)+0.01*g.random.NormFloat64(), int64(1e9)
	s := &commonv1.StepReport{
		Step: g.step, ComputeSeconds: &compute, DataSeconds: &data, CommunicationSeconds: &communicate,
		StepSeconds: &step, Loss: &loss, ResidentBytes: &bytes,
	}
	if change != nil {
		change(rank, s)
	}
	g.add(rank, &commonv1.Event{Body: &commonv1.Event_Step{Step: s}})
}

// steps makes so many steps of all ranks.
func (g *gang) steps(n int, change func(rank uint32, s *commonv1.StepReport)) *gang {
	for range n {
		g.step++
		g.now += 0.1
		for rank := range uint32(gangRanks) {
			g.report(rank, change)
		}
	}
	return g
}

// still lets seconds pass; activity says what a rank does, unless it is silent.
func (g *gang) still(seconds float64, activity func(rank uint32) (commonv1.Activity, bool)) *gang {
	for end := g.now + seconds; g.now < end; g.now += 0.5 {
		for rank := range uint32(gangRanks) {
			if does, ok := activity(rank); ok {
				g.add(rank, &commonv1.Event{Body: &commonv1.Event_Tick{Tick: &commonv1.Tick{LastStep: g.step, Activity: does}}})
			}
		}
	}
	return g
}

func (g *gang) phase(rank uint32, edge commonv1.PhaseEdge) *gang {
	g.add(rank, &commonv1.Event{Body: &commonv1.Event_Phase{Phase: &commonv1.Phase{Kind: commonv1.PhaseKind_PHASE_KIND_CHECKPOINT, Edge: edge}}})
	return g
}

// blamed says who findings blame: "straggler 3", "hang nobody".
func blamed(findings []*controlv1.Finding) string {
	var all []string
	for _, f := range findings {
		who := fmt.Sprint(f.GetRank(), " ", f.GetNode())
		switch {
		case f.GetBlameUnknown():
			who = "nobody"
		case len(f.GetRanks()) > 0:
			who = fmt.Sprint(f.GetRanks(), " ", f.GetNode())
		}
		all = append(all, strings.TrimSpace(f.GetKind()+" "+who))
	}
	return strings.Join(all, ", ")
}

const (
	collective = commonv1.Activity_ACTIVITY_COLLECTIVE
	computing  = commonv1.Activity_ACTIVITY_COMPUTE
)

// waits has all ranks in a collective but those of a list, which do this.
func waits(does commonv1.Activity, alive bool, but ...uint32) func(uint32) (commonv1.Activity, bool) {
	return func(rank uint32) (commonv1.Activity, bool) {
		for _, r := range but {
			if r == rank {
				return does, alive
			}
		}
		return collective, true
	}
}

func slow(factor float64, ranks ...uint32) func(uint32, *commonv1.StepReport) {
	return func(rank uint32, s *commonv1.StepReport) {
		for _, r := range ranks {
			if r == rank {
				*s.ComputeSeconds *= factor
				*s.CommunicationSeconds = 0.002
			}
		}
	}
}

func nanOf(ranks ...uint32) func(uint32, *commonv1.StepReport) {
	return func(rank uint32, s *commonv1.StepReport) {
		for _, r := range ranks {
			if r == rank {
				*s.Loss = math.NaN()
			}
		}
	}
}

// TestBlame has what goes wrong in a run of several ranks, and what only seems
// so: exactly who is to blame, once.
func TestBlame(t *testing.T) {
	begin, end := commonv1.PhaseEdge_PHASE_EDGE_BEGIN, commonv1.PhaseEdge_PHASE_EDGE_END
	tests := map[string]struct {
		more func(g *gang)
		want string
	}{
		"healthy":           {func(g *gang) { g.steps(200, nil) }, ""},
		"straggler":         {func(g *gang) { g.steps(60, slow(1.5, 3)) }, "straggler 3 n1"},
		"slow node":         {func(g *gang) { g.steps(60, slow(1.5, 4, 5)) }, "straggler [4 5] n2"},
		"all slow alike":    {func(g *gang) { g.steps(60, slow(1.5, 0, 1, 2, 3, 4, 5, 6, 7)) }, ""},
		"it comes back":     {func(g *gang) { g.steps(60, slow(1.5, 3)).steps(200, nil).steps(60, slow(1.5, 3)) }, "straggler 3 n1, straggler 3 n1"},
		"one after another": {func(g *gang) { g.steps(60, slow(1.5, 3)).steps(60, slow(1.6, 3, 6)) }, "straggler 3 n1, straggler 6 n3"},
		"it computes longer and waits": {func(g *gang) {
			g.steps(60, func(rank uint32, s *commonv1.StepReport) {
				if rank == 3 {
					*s.ComputeSeconds, *s.CommunicationSeconds = 0.12, 0.05
				}
			})
		}, ""},
		"starvation": {func(g *gang) {
			g.steps(40, func(rank uint32, s *commonv1.StepReport) {
				if rank == 6 {
					*s.DataSeconds = 0.04
				}
			})
		}, "starvation 6 n3"},
		"all starve": {func(g *gang) {
			g.steps(40, func(_ uint32, s *commonv1.StepReport) { *s.DataSeconds = 0.06 })
		}, "starvation nobody"},
		"leak": {func(g *gang) {
			from := g.step
			g.steps(160, func(rank uint32, s *commonv1.StepReport) {
				if rank == 1 {
					*s.ResidentBytes += 1e6 * (s.Step - from)
				}
			})
		}, "leak 1 n0"},
		"all leak": {func(g *gang) {
			from := g.step
			g.steps(300, func(_ uint32, s *commonv1.StepReport) { *s.ResidentBytes += 1e6 * (s.Step - from) })
		}, "leak nobody"},
		"longer sequences": {func(g *gang) {
			from := g.step
			g.steps(300, func(_ uint32, s *commonv1.StepReport) {
				*s.ResidentBytes += 1e6 * (s.Step - from)
				*s.StepSeconds *= 1 + float64(s.Step-from)/200
			})
		}, ""},
		"silent":           {func(g *gang) { g.still(15, waits(0, false, 5)) }, "hang 5 n2"},
		"a node is silent": {func(g *gang) { g.still(15, waits(0, false, 2, 3)) }, "hang [2 3] n1"},
		"outside":          {func(g *gang) { g.still(15, waits(computing, true, 0)) }, "hang 0 n0"},
		"waits for data":   {func(g *gang) { g.still(15, waits(commonv1.Activity_ACTIVITY_DATA, true, 7)) }, "hang 7 n3"},
		"all wait":         {func(g *gang) { g.still(15, waits(0, true)) }, "hang nobody"},
		"most are silent":  {func(g *gang) { g.still(15, waits(0, false, 0, 1, 2, 3, 4, 5)) }, "hang nobody"},
		"short":            {func(g *gang) { g.still(5, waits(computing, true, 0)).steps(40, nil) }, ""},
		"all evaluate":     {func(g *gang) { g.still(9, waits(computing, true, 0, 1, 2, 3, 4, 5, 6, 7)).steps(40, nil) }, ""},
		"a declared pause": {func(g *gang) { g.phase(0, begin).still(60, waits(computing, true, 0)).phase(0, end).steps(40, nil) }, ""},
		"a step ahead":     {func(g *gang) { g.step++; g.report(6, nil); g.step--; g.still(15, waits(collective, true)) }, "hang 6 n3"},
		"it goes on":       {func(g *gang) { g.still(15, waits(0, false, 5)).steps(40, nil) }, "hang 5 n2"},
		"NaN":              {func(g *gang) { g.steps(1, nanOf(4)).steps(20, nanOf(0, 1, 2, 3, 4, 5, 6, 7)) }, "nonfinite 4 n2"},
		"NaN of two":       {func(g *gang) { g.steps(1, nanOf(2, 4)).steps(20, nanOf(0, 1, 2, 3, 4, 5, 6, 7)) }, "nonfinite [2 4]"},
		"NaN of all":       {func(g *gang) { g.steps(20, nanOf(0, 1, 2, 3, 4, 5, 6, 7)) }, "nonfinite nobody"},
		"NaN and a lost row": {func(g *gang) {
			g.steps(1, nanOf(4))
			g.events = append(g.events[:len(g.events)-8], g.events[len(g.events)-7:]...)
			g.steps(3, nanOf(0, 1, 2, 3, 4, 5, 6, 7))
		}, "nonfinite 4 n2"},
		"NaN and nothing more": {func(g *gang) { g.step++; g.report(4, nanOf(4)); g.still(1, waits(0, true)) }, "nonfinite 4 n2"},
	}
	for name, test := range tests {
		for seed := range uint64(4) {
			g := newGang(seed).steps(150, nil)
			test.more(g)
			findings := observe(detect.NewBank(all()), g.events...)
			if diff := cmp.Diff(test.want, blamed(findings)); diff != "" {
				t.Errorf("%s, seed %d: -want +got:\n%s", name, seed, diff)
				for _, f := range findings {
					t.Log(f.GetSummary())
				}
			}
		}
	}
}

// TestSentencesName what a person asks first: who, how much, since when.
func TestSentencesName(t *testing.T) {
	for want, more := range map[string]func(*gang){
		"Rank 3 on node n1 computes 1.":                        func(g *gang) { g.steps(40, slow(1.5, 3)) },
		"Node n2 with its ranks 4 and 5 computes 1.":           func(g *gang) { g.steps(40, slow(1.5, 4, 5)) },
		"Ranks 2 and 3 on node n1 give no sign of life":        func(g *gang) { g.still(15, waits(0, false, 2, 3)) },
		"nothing tells for whom":                               func(g *gang) { g.still(15, waits(0, true)) },
		"8 of 8 ranks report that the loss is NaN at step 151": func(g *gang) { g.steps(1, nanOf(0, 1, 2, 3, 4, 5, 6, 7)) },
	} {
		g := newGang(1).steps(150, nil)
		more(g)
		findings := observe(detect.NewBank(all()), g.events...)
		if len(findings) != 1 || !strings.Contains(findings[0].GetSummary(), want) {
			t.Errorf("%v; want one with %q", findings, want)
		}
	}
}

// TestAnotherWorldSize: ranks that are gone by intent are neither waited for nor
// silent.
func TestAnotherWorldSize(t *testing.T) {
	g := newGang(1).steps(100, nil)
	g.add(0, &commonv1.Event{Body: &commonv1.Event_Phase{Phase: &commonv1.Phase{
		Kind: commonv1.PhaseKind_PHASE_KIND_WORLD_SIZE_CHANGE, Edge: commonv1.PhaseEdge_PHASE_EDGE_BEGIN,
	}}})
	from := len(g.events)
	g.steps(100, nil).steps(60, slow(1.5, 2)).still(15, waits(computing, true, 1))
	kept := g.events[:from]
	for _, e := range g.events[from:] {
		if e.GetRank() < 4 {
			kept = append(kept, e)
		}
	}
	if got, want := blamed(observe(detect.NewBank(all()), kept...)), "straggler 2 n1, hang 1 n0"; got != want {
		t.Errorf("%s; want %s", got, want)
	}
}
