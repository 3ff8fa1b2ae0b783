package detect

import (
	"fmt"
	"slices"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// nodes is the nodes that a bank knows, and which runs train on them.
type nodes struct {
	rules    []NodeRule
	byName   map[string]*Node
	ofRun    map[string]*places
	symptoms []symptom // the last ones of all runs, the oldest first
	ended    []*controlv1.Finding
}

// places is where a run's present attempt trains.
type places struct {
	attempt uint32
	nodes   []string // sorted
}

// WatchNodes has the bank look at nodes too, and gives it back. It is called
// before anything is observed. Two rules with one code are a bug and panic.
func (b *Bank) WatchNodes(rules []NodeRule) *Bank {
	b.nodes = newNodes(rules)
	return b
}

func newNodes(rules []NodeRule) nodes {
	seen := map[string]bool{}
	for _, rule := range rules {
		if seen[rule.Code] {
			panic(fmt.Sprintf("detection rule %q is listed twice", rule.Code))
		}
		seen[rule.Code] = true
	}
	return nodes{rules: rules, byName: map[string]*Node{}, ofRun: map[string]*places{}}
}

func (s *nodes) node(name string) *Node {
	n := s.byName[name]
	if n == nil {
		n = newNode(name, s.rules)
		s.byName[name] = n
	}
	return n
}

// place learns where a run trains from what its processes say.
func (s *nodes) place(event *commonv1.Event) {
	switch event.GetBody().(type) {
	case *commonv1.Event_TrainerRegistered, *commonv1.Event_Step, *commonv1.Event_NonFinite, *commonv1.Event_Tick:
	default:
		return
	}
	run, at := event.GetRunId(), event.GetNode()
	if at == "" {
		return
	}
	p := s.ofRun[run]
	if p == nil {
		p = &places{attempt: event.GetAttempt()}
		s.ofRun[run] = p
	}
	if event.GetAttempt() < p.attempt {
		return
	}
	if event.GetAttempt() > p.attempt {
		s.leave(run)
		p.attempt, p.nodes = event.GetAttempt(), p.nodes[:0]
		s.ofRun[run] = p
	}
	if i, ok := slices.BinarySearch(p.nodes, at); !ok {
		p.nodes = slices.Insert(p.nodes, i, at)
		n := s.node(at)
		n.runs = insert(n.runs, run)
	}
}

// leave forgets where a run trains.
func (s *nodes) leave(run string) {
	if p := s.ofRun[run]; p != nil {
		for _, name := range p.nodes {
			n := s.byName[name]
			n.runs = slices.DeleteFunc(n.runs, func(r string) bool { return r == run })
		}
	}
	delete(s.ofRun, run)
}

// observe takes an event of a node and gives what it shows of it.
func (s *nodes) observe(event *commonv1.Event) []said {
	n := s.node(event.GetNode())
	n.observe(event)
	for i := range n.found {
		f, rule := n.found[i].finding, s.rules[n.found[i].rule]
		f.Kind = rule.Code
		if f.AffectedRuns == nil {
			f.AffectedRuns = slices.Clone(n.runs)
		}
		f.FindingId = idOf("node "+n.Name, f.GetProblem()+"/"+f.GetSeverity().String(), event, 0)
		s.explain(n, n.found[i])
		n.remember(n.found[i])
	}
	s.ended = n.ended
	return n.found
}

// isOfNode tells whether an event is of a node rather than of a run.
func isOfNode(event *commonv1.Event) bool {
	if event.GetRunId() != "" || event.GetNode() == "" {
		return false
	}
	switch event.GetBody().(type) {
	case *commonv1.Event_NodeReport, *commonv1.Event_NodeFault, *commonv1.Event_NodeLink:
		return true
	}
	return false
}
