package detect

import (
	"fmt"
	"slices"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Set is rules that work together on a run. It does not change and may be used
// for many runs.
type Set struct {
	rules []Rule
	under [][]int // for each rule, the places of those that explain it
}

// NewSet makes a set. Two rules with one code are a bug and panic. A rule under
// a kind that is not in the list is under nothing. A shadow rule, which is only
// tried, explains no finding of a rule that counts.
func NewSet(rules []Rule) *Set {
	places := map[string]int{}
	for i, rule := range rules {
		if _, ok := places[rule.Code]; ok {
			panic(fmt.Sprintf("detection rule %q is listed twice", rule.Code))
		}
		places[rule.Code] = i
	}
	under := make([][]int, len(rules))
	for i, rule := range rules {
		for _, code := range rule.Under {
			if place, ok := places[code]; ok && (rule.Shadow || !rules[place].Shadow) {
				under[i] = append(under[i], place)
			}
		}
	}
	return &Set{rules: rules, under: under}
}

// Choose gives the rules for a run; project is empty until a trainer has said
// it. The same answer is the same pointer.
type Choose func(run, project string) *Set

// watch is the detectors of one run.
type watch struct {
	run       string
	set       *Set
	project   string
	world     uint32 // ranks, as a trainer said last; 0 before
	detectors []Detector
	was       []bool // whose problems went on at the run's last step
}

// begin makes detectors that have seen nothing.
func (w *watch) begin(set *Set) {
	w.set, w.detectors, w.was = set, make([]Detector, len(set.rules)), make([]bool, len(set.rules))
	for i, rule := range set.rules {
		w.detectors[i] = rule.New()
	}
}

// learn takes from a registration which project the run belongs to. Where that
// means other rules they begin with it.
func (w *watch) learn(event *commonv1.Event, choose Choose) {
	project := ProjectOf(event.GetTrainerRegistered())
	if project == "" || project == w.project {
		return
	}
	w.project = project
	if set := choose(event.GetRunId(), project); set != w.set {
		w.begin(set)
	}
}

// resized gives the change of the number of ranks that a registration tells of,
// as a phase like those that trainers declare: nil when there is none.
func (w *watch) resized(event *commonv1.Event) *commonv1.Event {
	world, was := event.GetTrainerRegistered().GetWorldSize(), w.world
	if world == 0 {
		return nil
	}
	if w.world = world; was == 0 || world == was {
		return nil
	}
	return &commonv1.Event{
		EventId: event.GetEventId(), Time: event.GetTime(), RunId: event.GetRunId(), Attempt: event.GetAttempt(),
		Rank: event.GetRank(), Node: event.GetNode(),
		Body: &commonv1.Event_Phase{Phase: &commonv1.Phase{
			Kind: commonv1.PhaseKind_PHASE_KIND_WORLD_SIZE_CHANGE, Edge: commonv1.PhaseEdge_PHASE_EDGE_BEGIN,
		}},
	}
}

// ProjectOf is the project that a trainer says its run belongs to: the setting
// "project" or, where there is none, the run's name.
func ProjectOf(registered *commonv1.TrainerRegistered) string {
	if project := registered.GetSettings()["project"]; project != "" {
		return project
	}
	return registered.GetName()
}

// observe has every rule see the event, the run's own or one of a node that it
// trains on, before any finding is dropped that a problem of another kind
// explains.
func (w *watch) observe(event *commonv1.Event, nodes *nodes) []*controlv1.Finding {
	var findings []*controlv1.Finding
	var from []int // the rule of each finding
	for i, detector := range w.detectors {
		for _, finding := range detector.Observe(event) {
			w.complete(finding, w.set.rules[i], event, nodes)
			findings, from = append(findings, finding), append(from, i)
		}
	}
	if findings == nil {
		return nil
	}
	var kept []*controlv1.Finding
	for i, finding := range findings {
		explained := slices.ContainsFunc(w.set.under[from[i]], func(place int) bool { return w.detectors[place].Open() })
		if !explained && nodes.attribute(w.set.rules[from[i]], finding) {
			kept = append(kept, finding)
		}
	}
	return kept
}

// complete says what the rule left out.
func (w *watch) complete(finding *controlv1.Finding, rule Rule, event *commonv1.Event, nodes *nodes) {
	finding.Kind, finding.Shadow, finding.RunId = rule.Code, rule.Shadow, w.run
	if p := nodes.ofRun[w.run]; event.GetRunId() == "" && p != nil {
		finding.Attempt = p.attempt
	}
	if finding.GetSeverity() == commonv1.Severity_SEVERITY_UNSPECIFIED {
		finding.Severity = rule.Severity
	}
	finding.FindingId = idOf(w.run, rule.Code, event, finding.GetOnsetStep())
}
