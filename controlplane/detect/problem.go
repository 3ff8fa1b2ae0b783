package detect

import (
	"math"
	"slices"
	"sort"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// maxProblems bounds what is followed of one node; what comes on top is not
// looked at.
const maxProblems = 2048

// Problem is one thing that may be wrong with one part of a node: it is found
// once, again only when it becomes more severe, and then it is over. A detector
// gets it once ([Node.Problem]) and keeps it.
type Problem struct {
	name string
	rule int

	open    commonv1.Severity  // 0 while nothing is found
	finding *controlv1.Finding // the last one; nil while it is not open
	since   [4]float64         // since when it is at least so severe; NaN when it is not
	fine    float64            // since when nothing is wrong; NaN when something is
	quiet   float64            // seconds after which what happened is over; 0 when it does not end so
	last    float64            // when it happened last
	scoped  bool               // the finding's rule named the runs that it hits
}

// Verdict is what a report says of a part's state.
type Verdict struct {
	// Severity is how bad it is now; unspecified when it is not bad enough to
	// be found.
	Severity commonv1.Severity
	// Fine tells that it is well: what was found may end. Between the two a
	// problem stays as it is.
	Fine bool
	// Hold is how long, in seconds, it must be so severe before it is found.
	Hold float64
	// Release is how long, in seconds, it must be fine before it is over.
	Release float64
}

// Problem gives the problem of the rule that observes, by the part's name; nil
// when the node has too many.
func (n *Node) Problem(part string) *Problem {
	name := n.rules[n.rule].Code + "/" + part
	p := n.problems[name]
	if p == nil && len(n.problems) < maxProblems {
		p = newProblem(name, n.rule)
		n.problems[name] = p
	}
	return p
}

func newProblem(name string, rule int) *Problem {
	nan := math.NaN()
	return &Problem{name: name, rule: rule, since: [4]float64{nan, nan, nan, nan}, fine: nan}
}

// Open tells whether the problem was found and is not over.
func (p *Problem) Open() bool { return p != nil && p.open != 0 }

// Judge takes what a report says of the part. When that makes the problem
// found, or more severe, say gives the finding.
func (p *Problem) Judge(n *Node, v Verdict, say func() *controlv1.Finding) {
	if p == nil {
		return
	}
	p.quiet = 0
	for s := range p.since {
		switch {
		case int(v.Severity) < s || s == 0:
			p.since[s] = math.NaN()
		case math.IsNaN(p.since[s]):
			p.since[s] = n.now
		}
	}
	for s := v.Severity; s > p.open; s-- {
		if n.now-p.since[s] >= v.Hold {
			p.found(n, s, say())
			break
		}
	}
	if !v.Fine {
		p.fine = math.NaN()
		return
	}
	if math.IsNaN(p.fine) {
		p.fine = n.now
	}
	if p.open != 0 && n.now-p.fine >= v.Release {
		p.over(n)
	}
}

// Happened takes something that happened to the part. It is found at once; the
// same again within quiet seconds is the same problem, which is over when
// nothing more was heard of it for so long. At most [NodeMemory]/2.
func (p *Problem) Happened(n *Node, severity commonv1.Severity, quiet float64, say func() *controlv1.Finding) {
	if p == nil {
		return
	}
	p.last, p.quiet = n.now, min(quiet, NodeMemory/2)
	if !slices.Contains(n.timed, p) {
		n.timed = append(n.timed, p)
	}
	if severity > p.open {
		p.found(n, severity, say())
	}
}

// Gone takes that the part is not there any more; the detector drops it.
func (p *Problem) Gone(n *Node) {
	if p == nil {
		return
	}
	p.over(n)
	delete(n.problems, p.name)
}

func (p *Problem) found(n *Node, severity commonv1.Severity, f *controlv1.Finding) {
	p.open, p.finding, p.scoped = severity, f, len(f.GetAffectedRuns()) > 0
	f.Severity, f.Problem = severity, p.name
	n.found = append(n.found, said{f, p.rule, p.scoped})
}

// over ends the problem, if it is open.
func (p *Problem) over(n *Node) {
	if p.open != 0 {
		n.ended = append(n.ended, p.finding)
	}
	p.open, p.finding, p.quiet = 0, nil, 0
}

// interrupted takes that nothing was heard of the node for a while: how long a
// state lasted is counted anew.
func (p *Problem) interrupted() {
	for s := range p.since {
		p.since[s] = math.NaN()
	}
	p.fine = math.NaN()
}

// expire ends what happened and did not happen again.
func (n *Node) expire() {
	n.timed = slices.DeleteFunc(n.timed, func(p *Problem) bool {
		if p.quiet == 0 {
			return true
		}
		if n.now-p.last < p.quiet {
			return false
		}
		p.over(n)
		delete(n.problems, p.name) // faults have names without end
		return true
	})
}

// restore sets which problems are open, as the store has it. One of which the
// events that were shown again say nothing ends when they go on saying nothing.
func (n *Node) restore(open map[string]*controlv1.Finding) {
	for name, p := range n.problems {
		if open[name] == nil {
			p.open, p.finding = 0, nil
		}
	}
	for name, f := range open {
		p := n.problems[name]
		if p == nil {
			rule := slices.IndexFunc(n.rules, func(r NodeRule) bool { return r.Code == f.GetKind() })
			if rule < 0 {
				continue // a rule that is no longer there
			}
			p = newProblem(name, rule)
			p.quiet, p.last = NodeMemory/2, n.now
			n.problems[name], n.timed = p, append(n.timed, p)
		}
		p.open, p.finding, p.scoped = f.GetSeverity(), f, len(f.GetAffectedRuns()) > 0
	}
}

func insert(sorted []string, name string) []string {
	i := sort.SearchStrings(sorted, name)
	if i < len(sorted) && sorted[i] == name {
		return sorted
	}
	return slices.Insert(sorted, i, name)
}
