package detect_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// multiples finds every step that is a multiple of n, and counts how many
// steps its run has had.
func multiples(code string, n int64) detect.Rule {
	return detect.Rule{
		Code: code, Severity: commonv1.Severity_SEVERITY_WARNING,
		New: func() detect.Detector { return &multiplesOf{n: n} },
	}
}

type multiplesOf struct {
	n, seen int64
	open    bool
}

func (m *multiplesOf) Open() bool { return m.open }

func (m *multiplesOf) Observe(event *commonv1.Event) []*controlv1.Finding {
	s := event.GetStep()
	if s == nil {
		return nil
	}
	m.seen++
	if m.open = s.GetStep()%m.n == 0; !m.open {
		return nil
	}
	f := detect.FindingOf(event, s.GetStep(), s.GetStep())
	f.Evidence = map[string]float64{"seen": float64(m.seen)}
	if s.GetStep() == 12 {
		f.Severity = commonv1.Severity_SEVERITY_CRITICAL
	}
	return []*controlv1.Finding{f}
}

func step(run string, n int64) *commonv1.Event {
	return &commonv1.Event{
		RunId: run, Attempt: 2, Rank: 3, Node: "n1", Time: &timestamppb.Timestamp{Seconds: 100 + n},
		Body: &commonv1.Event_Step{Step: &commonv1.StepReport{Step: n}},
	}
}

func ended(run string) *commonv1.Event {
	return &commonv1.Event{RunId: run, Body: &commonv1.Event_RunEnded{RunEnded: &commonv1.RunEnded{}}}
}

func TestBankCompletesFindings(t *testing.T) {
	bank := detect.NewBank([]detect.Rule{multiples("four", 4), multiples("six", 6)})
	bank.Observe(step("a", 11))
	got := bank.Observe(step("a", 12))
	want := []*controlv1.Finding{}
	for _, kind := range []string{"four", "six"} {
		want = append(want, &controlv1.Finding{
			FindingId: detect.ID(kind, 12, step("a", 12)), RunId: "a", Kind: kind,
			Severity:  commonv1.Severity_SEVERITY_CRITICAL, // the detector's own word
			OnsetStep: 12, Step: 12, Attempt: 2, Rank: 3, Node: "n1",
			Evidence: map[string]float64{"seen": 2}, EventTime: &timestamppb.Timestamp{Seconds: 112},
		})
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if got := bank.Observe(step("a", 4)); got[0].GetSeverity() != commonv1.Severity_SEVERITY_WARNING {
		t.Errorf("severity = %v, want the rule's", got[0].GetSeverity())
	}
}

func TestRunsDoNotInfluenceEachOther(t *testing.T) {
	bank := detect.NewBank([]detect.Rule{multiples("four", 4)})
	for i := range int64(4) {
		bank.Observe(step("a", i+1))
	}
	if got := bank.Observe(step("b", 4)); got[0].GetEvidence()["seen"] != 1 {
		t.Errorf("run b has seen %v steps, want 1", got[0].GetEvidence()["seen"])
	}
}

func TestBankForgetsRunsThatEnded(t *testing.T) {
	bank := detect.NewBank([]detect.Rule{multiples("four", 4)})
	for i := range 3000 {
		run := fmt.Sprint("run-", i)
		bank.Observe(step(run, 1))
		bank.Observe(ended(run))
	}
	if bank.Runs() != 0 {
		t.Errorf("bank holds %d runs after all ended", bank.Runs())
	}
	if got := bank.Observe(step("run-2999", 4)); got != nil || bank.Runs() != 0 {
		t.Errorf("a late step of an ended run gave %v and %d runs", got, bank.Runs())
	}
	bank.Observe(&commonv1.Event{RunId: "run-2999", Body: &commonv1.Event_AttemptStarted{}})
	if got := bank.Observe(step("run-2999", 4)); len(got) != 1 {
		t.Errorf("a run that began again gave %d findings, want 1", len(got))
	}
	bank.Observe(&commonv1.Event{RunId: "run-2998", Body: &commonv1.Event_TrainerRegistered{}})
	if got := bank.Observe(step("run-2998", 4)); len(got) != 1 {
		t.Errorf("a run without a supervisor that began again gave %d findings, want 1", len(got))
	}
}

func TestOnlyTrainingStartsARun(t *testing.T) {
	bank := detect.NewBank([]detect.Rule{multiples("four", 4)})
	bank.Observe(&commonv1.Event{RunId: "a", Body: &commonv1.Event_Checkpoint{}})
	bank.Observe(&commonv1.Event{RunId: "a", Body: &commonv1.Event_CommandResult{}})
	bank.Observe(ended("a"))
	bank.Observe(step("", 4))
	bank.Observe(&commonv1.Event{RunId: "a"})
	if bank.Runs() != 0 {
		t.Errorf("bank holds %d runs, want none", bank.Runs())
	}
}

func TestIDTellsItsPartsApart(t *testing.T) {
	seen := map[string]string{}
	for _, run := range []string{"a", "a b", `a"`} {
		for _, kind := range []string{"b", "b c"} {
			for attempt := range uint32(3) {
				for onset := range int64(3) {
					for _, event := range []string{"", "e1", "e2"} {
						id := detect.ID(kind, onset, &commonv1.Event{RunId: run, Attempt: attempt, EventId: event})
						what := fmt.Sprint(run, "|", kind, "|", attempt, "|", onset, "|", event)
						if other, ok := seen[id]; ok {
							t.Errorf("%s and %s have one id", what, other)
						}
						seen[id] = what
					}
				}
			}
		}
	}
	if id := detect.ID("b", 1, step("a", 1)); id != detect.ID("b", 1, step("a", 1)) || len(id) != 22 {
		t.Errorf("id = %q", id)
	}
}

func TestARuleListedTwicePanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	detect.NewBank([]detect.Rule{multiples("four", 4), multiples("four", 6)})
}

// TestAnExplainedFindingIsDropped holds whichever of the rules is listed first.
func TestAnExplainedFindingIsDropped(t *testing.T) {
	four, six := multiples("four", 4), multiples("six", 6)
	six.Under = []string{"four", "no such rule"}
	for _, rules := range [][]detect.Rule{{four, six}, {six, four}} {
		bank := detect.NewBank(rules)
		var got []string
		for i := range int64(13) {
			for _, f := range bank.Observe(step("a", i)) {
				got = append(got, fmt.Sprint(f.GetKind(), "@", f.GetStep()))
			}
		}
		if diff := cmp.Diff([]string{"four@0", "four@4", "six@6", "four@8", "four@12"}, got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
}

// TestStanding: a problem is over at the step at which its detector sees it no
// more, and said so once.
func TestStanding(t *testing.T) {
	var bank *detect.Bank
	for n, want := range map[int64]detect.Standing{
		12: {}, 13: {Over: []string{"four", "six"}, Open: []string{"one"}}, 14: {}, 17: {Over: []string{"four"}, Open: []string{"one"}},
	} {
		bank = detect.NewBank([]detect.Rule{multiples("four", 4), multiples("six", 6), multiples("one", 1)})
		for k := int64(12); k <= n; k++ {
			bank.Observe(step("a", k))
		}
		if diff := cmp.Diff(want, bank.Standing()); diff != "" {
			t.Errorf("step %d (-want +got):\n%s", n, diff)
		}
	}
	bank.Observe(ended("a"))
	if diff := cmp.Diff(detect.Standing{}, bank.Standing()); diff != "" {
		t.Error(diff)
	}
}

// stands finds a tick and is over with the next step, as a hang is.
type stands struct{ open bool }

func (s *stands) Open() bool { return s.open }

func (s *stands) Observe(event *commonv1.Event) []*controlv1.Finding {
	switch event.GetBody().(type) {
	case *commonv1.Event_Tick:
		s.open = true
	case *commonv1.Event_Step:
		s.open = false
	}
	return nil
}

// TestStandingBetweenSteps: what began after a step and is over at the next was
// there, and is said to be over.
func TestStandingBetweenSteps(t *testing.T) {
	bank := detect.NewBank([]detect.Rule{{Code: "stands", New: func() detect.Detector { return &stands{} }}})
	bank.Observe(step("a", 1))
	bank.Observe(&commonv1.Event{EventId: "tick", RunId: "a", Body: &commonv1.Event_Tick{Tick: &commonv1.Tick{LastStep: 1}}})
	if diff := cmp.Diff(detect.Standing{}, bank.Standing()); diff != "" {
		t.Errorf("while it stands (-want +got):\n%s", diff)
	}
	bank.Observe(step("a", 2))
	if diff := cmp.Diff(detect.Standing{Over: []string{"stands"}}, bank.Standing()); diff != "" {
		t.Errorf("at the next step (-want +got):\n%s", diff)
	}
}
