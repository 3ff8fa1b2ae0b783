package detect

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// endedRuns is how many runs that ended a bank remembers, so that their last
// events, which may come late from another node, do not start them anew.
const endedRuns = 1024

// Bank has the detectors of every run that goes on and of every node. Runs do
// not influence each other; nodes only name the causes of what runs show. It is
// used by one goroutine at a time.
type Bank struct {
	rules []Rule
	under [][]int // for each rule, the places of those that explain it
	runs  map[string][]Detector
	ended ring
	was   map[string][]bool // whose problems went on at the run's last step
	now   Standing
	nodes nodes
}

// NewBank makes a bank without runs. Two rules with one code are a bug and
// panic. A rule under a kind that is not in the list is under nothing.
func NewBank(rules []Rule) *Bank {
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
			if place, ok := places[code]; ok {
				under[i] = append(under[i], place)
			}
		}
	}
	return &Bank{rules: rules, under: under, runs: map[string][]Detector{}, ended: newRing(endedRuns), nodes: newNodes(nil), was: map[string][]bool{}}
}

// Observe takes the next event of any run or node and gives what it shows, with
// ids that are the same whenever the same events are observed. Created is left
// for the caller, since a bank has no clock.
func (b *Bank) Observe(event *commonv1.Event) []*controlv1.Finding {
	b.nodes.ended, b.now = nil, Standing{}
	if isOfNode(event) {
		return b.observeNode(event)
	}
	detectors := b.detectors(event)
	if detectors == nil {
		return nil
	}
	b.nodes.place(event)
	findings := b.observeRun(event.GetRunId(), detectors, event)
	b.stand(event, detectors)
	switch body := event.GetBody().(type) {
	case *commonv1.Event_RunEnded:
		delete(b.runs, event.GetRunId())
		delete(b.was, event.GetRunId())
		b.nodes.leave(event.GetRunId())
		b.ended.add(event.GetRunId())
	case *commonv1.Event_AttemptEnded:
		if !body.AttemptEnded.GetRestarting() {
			b.nodes.leave(event.GetRunId())
		}
	}
	return findings
}

// observeNode has the node's detectors see an event, and those of the runs that
// train on it.
func (b *Bank) observeNode(event *commonv1.Event) []*controlv1.Finding {
	var findings []*controlv1.Finding
	for _, s := range b.nodes.observe(event) {
		findings = append(findings, s.finding)
	}
	n := b.nodes.byName[event.GetNode()]
	if len(n.runs) == 0 {
		return findings
	}
	for _, run := range n.runs {
		findings = append(findings, b.observeRun(run, b.runs[run], event)...)
	}
	return findings
}

// Ended gives the last findings of those problems of nodes that the event
// observed last showed to be over.
func (b *Bank) Ended() []*controlv1.Finding { return b.nodes.ended }

// Restore sets which problems of nodes are open: their last findings. It is
// called once, when the bank was shown again what it had seen before a restart,
// and before anything new: what is open may have begun before that.
func (b *Bank) Restore(open []*controlv1.Finding) {
	byNode := map[string]map[string]*controlv1.Finding{}
	for _, f := range open {
		if byNode[f.GetNode()] == nil {
			byNode[f.GetNode()] = map[string]*controlv1.Finding{}
			b.nodes.node(f.GetNode())
		}
		byNode[f.GetNode()][f.GetProblem()] = f
	}
	for name, n := range b.nodes.byName {
		n.restore(byNode[name])
	}
}

// observeRun has a run's detectors see an event.
func (b *Bank) observeRun(run string, detectors []Detector, event *commonv1.Event) []*controlv1.Finding {
	var findings []*controlv1.Finding
	var from []int // the rule of each finding; all rules see the event before any is dropped
	for i, detector := range detectors {
		for _, finding := range detector.Observe(event) {
			b.complete(finding, run, b.rules[i], event)
			findings, from = append(findings, finding), append(from, i)
		}
	}
	if findings != nil {
		findings = b.unexplained(detectors, findings, from)
	}
	return findings
}

// unexplained leaves out the findings that a problem of another kind explains.
func (b *Bank) unexplained(detectors []Detector, findings []*controlv1.Finding, from []int) []*controlv1.Finding {
	var kept []*controlv1.Finding
	for i, finding := range findings {
		explained := slices.ContainsFunc(b.under[from[i]], func(place int) bool { return detectors[place].Open() })
		if !explained && b.nodes.attribute(b.rules[from[i]], finding) {
			kept = append(kept, finding)
		}
	}
	return kept
}

// Runs gives the number of runs whose detectors the bank holds.
func (b *Bank) Runs() int { return len(b.runs) }

// detectors gives the detectors of the event's run. Only what happens to
// training processes starts a run; word of its checkpoints may come after its
// end. A run that ended begins again when its processes are launched again.
func (b *Bank) detectors(event *commonv1.Event) []Detector {
	run := event.GetRunId()
	if detectors, ok := b.runs[run]; ok {
		return detectors
	}
	if run == "" {
		return nil
	}
	switch event.GetBody().(type) {
	case *commonv1.Event_AttemptStarted, *commonv1.Event_TrainerRegistered:
		b.ended.remove(run)
	case *commonv1.Event_Step, *commonv1.Event_NonFinite:
		if b.ended.has(run) {
			return nil
		}
	default:
		return nil
	}
	detectors := make([]Detector, len(b.rules))
	for i, rule := range b.rules {
		detectors[i] = rule.New()
	}
	b.runs[run] = detectors
	return detectors
}

func (b *Bank) complete(finding *controlv1.Finding, run string, rule Rule, event *commonv1.Event) {
	finding.Kind, finding.RunId = rule.Code, run
	if p := b.nodes.ofRun[run]; event.GetRunId() == "" && p != nil {
		finding.Attempt = p.attempt
	}
	if finding.GetSeverity() == commonv1.Severity_SEVERITY_UNSPECIFIED {
		finding.Severity = rule.Severity
	}
	finding.FindingId = idOf(run, rule.Code, event, finding.GetOnsetStep())
}

// ID is the id of a finding that an event shows: the same whenever the same
// events are observed, and another when a run that is started again meets the
// same problem at the same step.
func ID(kind string, onsetStep int64, event *commonv1.Event) string {
	return idOf(event.GetRunId(), kind, event, onsetStep)
}

func idOf(of, kind string, event *commonv1.Event, onsetStep int64) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %d %d %q", of, kind, event.GetAttempt(), onsetStep, event.GetEventId()))
	return "f-" + hex.EncodeToString(sum[:10])
}

// ring is the last few names that were added to it.
type ring struct {
	names []string
	set   map[string]bool
	next  int
}

func newRing(size int) ring { return ring{names: make([]string, size), set: map[string]bool{}} }

func (r *ring) has(name string) bool { return r.set[name] }

func (r *ring) add(name string) {
	if r.set[name] {
		return
	}
	delete(r.set, r.names[r.next])
	r.names[r.next], r.set[name] = name, true
	r.next = (r.next + 1) % len(r.names)
}

// remove forgets a name; its place in the order goes unused.
func (r *ring) remove(name string) {
	if !r.set[name] {
		return
	}
	delete(r.set, name)
	for i := range r.names {
		if r.names[i] == name {
			r.names[i] = ""
		}
	}
}
