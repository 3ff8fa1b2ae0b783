package detect

import (
	"fmt"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// NodeRule is one kind of problem that nodes have. It is a sibling of [Rule]:
// a run's problem is found in the order of its steps and is over when the run
// gets past it, while a node's problem is of a part of the node, begins and
// ends by the node's clock, and hits whatever runs there.
type NodeRule struct {
	// Code is the finding's kind, for instance "xid"; it names the page
	// docs/runbook/<code>.md.
	Code string
	// Title is the code for people, for instance "GPU error (XID)".
	Title string
	// Explains names the kinds of a run's findings that such a problem on one of
	// its nodes brings about.
	Explains []string
	// New makes the detector of one node.
	New func() NodeDetector
}

// NodeDetector is the state of one rule for one node. It is used by one
// goroutine at a time.
type NodeDetector interface {
	// Observe takes the node's next event: a report, a fault, or word of its
	// link. What it finds it says through the node's problems ([Node.Problem]),
	// which see to it that each is found once until it is over. It does not keep
	// the event, and its memory must not reach further back than [NodeMemory]:
	// that is how much it is shown again after a restart.
	Observe(event *commonv1.Event, node *Node)
}

// NodeMemory is how far back, in seconds by the node's clock, a detector of a
// node may look. What is open for longer is kept by the store.
const NodeMemory = 3600.0

// gapReports is how many reports may be missing before what was seen before
// says nothing any more on how long a state has lasted.
const gapReports = 6

// Node is one node as its detectors see it.
type Node struct {
	// Name is the node's name.
	Name string

	rules     []NodeRule
	now       float64              // seconds, by the node's clock
	reported  float64              // when the last report came; 0 before the first
	ahead     float64              // seconds that its clock is ahead of the control plane's
	runs      []string             // sorted
	last      *commonv1.NodeReport // the one before, or the one that is observed
	detectors []NodeDetector
	problems  map[string]*Problem
	timed     []*Problem // open ones that end when nothing more is heard of them
	recent    []cause    // the last findings, the oldest first

	event *commonv1.Event // the one that is observed
	rule  int
	found []said
	ended []*controlv1.Finding
}

// said is a finding that a rule made of the event.
type said struct {
	finding *controlv1.Finding
	rule    int
	scoped  bool // the rule itself named the runs that it hits
}

func newNode(name string, rules []NodeRule) *Node {
	n := &Node{Name: name, rules: rules, problems: map[string]*Problem{}}
	for _, rule := range rules {
		n.detectors = append(n.detectors, rule.New())
	}
	return n
}

// Now is the event's time in seconds by the node's clock.
func (n *Node) Now() float64 { return n.now }

// Runs tells how many runs train on the node, as far as their events say.
func (n *Node) Runs() int { return len(n.runs) }

// Process gives the run and the rank of a process; false when it is none that
// trains.
func (n *Node) Process(pid int64) (run string, rank uint32, ok bool) {
	for _, p := range n.last.GetProcesses() {
		if p.GetPid() == pid {
			return p.GetRunId(), p.GetRank(), true
		}
	}
	return "", 0, false
}

// GPU gives the last report of a GPU by NVML's index; nil when there is none.
func (n *Node) GPU(index uint32) *commonv1.GpuReport {
	for _, g := range n.last.GetGpus() {
		if g.GetIndex() == index {
			return g
		}
	}
	return nil
}

// Finding starts a finding of a part of this node.
func (n *Node) Finding(device, summary string, args ...any) *controlv1.Finding {
	return &controlv1.Finding{
		Node: n.Name, EventTime: n.event.GetTime(), Device: device, Summary: fmt.Sprintf(summary, args...),
	}
}

// GPUFinding starts a finding of a GPU; the runs whose processes are on it are
// those that it hits.
func (n *Node) GPUFinding(g *commonv1.GpuReport, summary string, args ...any) *controlv1.Finding {
	f := n.Finding(g.GetUuid(), summary, args...)
	index := g.GetIndex()
	f.Gpu = &index
	for _, pid := range g.GetPids() {
		if run, _, ok := n.Process(pid); ok {
			f.AffectedRuns = insert(f.AffectedRuns, run)
		}
	}
	return f
}

// take sets the clock and what the event says of the node's processes.
func (n *Node) take(event *commonv1.Event) {
	n.event, n.found, n.ended = event, nil, nil
	n.now = Seconds(event)
	if link := event.GetNodeLink(); link != nil {
		if link.ClockAheadSeconds != nil {
			n.ahead = link.GetClockAheadSeconds()
		}
		n.now += n.ahead // the control plane's clock says when
	}
	r := event.GetNodeReport()
	if r == nil {
		return
	}
	if gap := n.now - n.reported; gap < 0 || gap > gapReports*max(r.GetIntervalSeconds(), 10) {
		for _, p := range n.problems {
			p.interrupted()
		}
	}
	n.reported, n.last = n.now, r
}

// observe has all detectors see an event.
func (n *Node) observe(event *commonv1.Event) {
	n.take(event)
	for i, detector := range n.detectors {
		n.rule = i
		detector.Observe(event, n)
	}
	n.expire()
}

// Seconds is an event's time in seconds.
func Seconds(event *commonv1.Event) float64 {
	return float64(event.GetTime().GetSeconds()) + float64(event.GetTime().GetNanos())/1e9
}
