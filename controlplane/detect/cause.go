package detect

import (
	"slices"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// A run's symptom and a node's problem are cause and effect when the problem is
// of a kind that explains the symptom's, on a node of the run, and close to it
// in time, on the control plane's clock. Which of two came first on the bus does
// not matter: a kernel log may be late.
const (
	// causeBefore is how long before its symptom a cause may be, in seconds.
	causeBefore = 300.0
	// causeAfter is how long after its symptom a cause may seem to be, in
	// seconds: both are written down by somebody who looked now and then.
	causeAfter = 60.0
	// causesKept and symptomsKept bound what is remembered.
	causesKept   = 32
	symptomsKept = 256
)

// stillSeconds is the evidence of how long a symptom had lasted when it was
// seen.
const stillSeconds = "still_seconds"

// cause is a finding of a node that may explain what comes.
type cause struct {
	said
	at float64 // seconds, by the control plane's clock
}

// symptom is a finding of a run that something may explain.
type symptom struct {
	finding *controlv1.Finding
	from    float64 // seconds, by the control plane's clock: when it began
	to      float64 // when it was seen
	nodes   []string
	silent  bool // it is worth saying only with its cause
}

// remember keeps a finding of the node for the symptoms that come.
func (n *Node) remember(s said) {
	if len(n.rules[s.rule].Explains) == 0 {
		return
	}
	if len(n.recent) == causesKept {
		n.recent = slices.Delete(n.recent, 0, 1)
	}
	n.recent = append(n.recent, cause{s, n.now - n.ahead})
}

// attribute names a run's finding's cause, where there is one, and remembers the
// finding for one that comes late. It tells whether the finding is to be said.
func (s *nodes) attribute(rule Rule, f *controlv1.Finding) bool {
	explained := slices.ContainsFunc(s.rules, func(r NodeRule) bool { return slices.Contains(r.Explains, rule.Code) })
	if !explained {
		return !rule.OnlyCaused
	}
	own := symptom{finding: f, silent: rule.OnlyCaused}
	own.to = float64(f.GetEventTime().GetSeconds()) + float64(f.GetEventTime().GetNanos())/1e9
	if n := s.byName[f.GetNode()]; n != nil {
		own.to -= n.ahead
	}
	own.from = own.to - f.GetEvidence()[stillSeconds]
	if p := s.ofRun[f.GetRunId()]; p != nil {
		own.nodes = slices.Clone(p.nodes)
	}
	var best *controlv1.Finding
	for _, name := range own.nodes {
		if c := s.byName[name].causeOf(own); c != nil && (best == nil || better(c, best, f.GetNode())) {
			best = c
		}
	}
	if best != nil {
		f.Cause = causeFrom(best)
		return true
	}
	if len(s.symptoms) == symptomsKept {
		s.symptoms = slices.Delete(s.symptoms, 0, 1)
	}
	s.symptoms = append(s.symptoms, own)
	return !rule.OnlyCaused
}

// causeOf gives the node's problem that explains a symptom best: one that goes
// on, or one that was found at the time.
func (n *Node) causeOf(own symptom) *controlv1.Finding {
	var best *controlv1.Finding
	consider := func(s said) {
		if !n.explains(s, own) {
			return
		}
		if best == nil || better(s.finding, best, n.Name) {
			best = s.finding
		}
	}
	for _, p := range n.problems {
		if p.open != 0 && p.finding.GetSeverity() >= commonv1.Severity_SEVERITY_WARNING && p.quiet == 0 {
			consider(said{p.finding, p.rule, p.scoped})
		}
	}
	for _, c := range n.recent {
		if c.at >= own.from-causeBefore && c.at <= own.to+causeAfter {
			consider(c.said)
		}
	}
	return best
}

// explains tells whether a problem is of a kind that brings a symptom about, and
// hits its run.
func (n *Node) explains(s said, own symptom) bool {
	if !slices.Contains(n.rules[s.rule].Explains, own.finding.GetKind()) {
		return false
	}
	return !s.scoped || slices.Contains(s.finding.GetAffectedRuns(), own.finding.GetRunId())
}

// better tells whether a explains more than b: it is on the node to blame, is
// more severe, or came first. The last word is the id's, so that the order of a
// map does not matter.
func better(a, b *controlv1.Finding, node string) bool {
	if onA, onB := a.GetNode() == node, b.GetNode() == node; onA != onB {
		return onA
	}
	if a.GetSeverity() != b.GetSeverity() {
		return a.GetSeverity() > b.GetSeverity()
	}
	if c := a.GetEventTime().AsTime().Compare(b.GetEventTime().AsTime()); c != 0 {
		return c < 0
	}
	return a.GetFindingId() < b.GetFindingId()
}

// explain names in a node's finding the symptoms that came before it. One that
// was not worth saying without a cause is said now, behind it.
func (s *nodes) explain(n *Node, c said) {
	at := n.now - n.ahead
	for i := range s.symptoms {
		own := &s.symptoms[i]
		if own.finding == nil || !slices.Contains(own.nodes, n.Name) || !n.explains(c, *own) {
			continue
		}
		if at < own.from-causeBefore || at > own.to+causeAfter {
			continue
		}
		if own.silent {
			own.finding.Cause = causeFrom(c.finding)
			n.found = append(n.found, said{own.finding, -1, false})
		} else {
			c.finding.Explains = append(c.finding.Explains, own.finding.GetFindingId())
		}
		own.finding = nil
	}
}

func causeFrom(f *controlv1.Finding) *controlv1.Cause {
	return &controlv1.Cause{
		Kind: f.GetKind(), FindingId: f.GetFindingId(), Node: f.GetNode(), Gpu: f.Gpu,
		Summary: f.GetSummary(), EventTime: f.GetEventTime(),
	}
}
