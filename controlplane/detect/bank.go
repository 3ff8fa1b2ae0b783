package detect

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/vigil-ml/vigil/internal/protocol"
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
	choose Choose
	runs   map[string]*watch
	ended  ring
	now    Standing
	nodes  nodes
}

// NewBank makes a bank without runs that has the same rules for each; see
// [NewSet].
func NewBank(rules []Rule) *Bank {
	set := NewSet(rules)
	return NewBankOf(func(string, string) *Set { return set })
}

// NewBankOf makes a bank without runs that asks which rules each is to have:
// when it begins, and when a trainer says which project it belongs to.
func NewBankOf(choose Choose) *Bank {
	return &Bank{choose: choose, runs: map[string]*watch{}, ended: newRing(endedRuns), nodes: newNodes(nil)}
}

// Observe takes the next event of any run or node and gives what it shows, with
// ids that are the same whenever the same events are observed. Created is left
// for the caller, since a bank has no clock.
func (b *Bank) Observe(event *commonv1.Event) []*controlv1.Finding {
	b.nodes.ended, b.now = nil, Standing{}
	if protocol.OfEither(event) || event.GetKeyUsed() != nil {
		return nil
	}
	if isOfNode(event) {
		return b.observeNode(event)
	}
	w := b.watch(event)
	if w == nil {
		return nil
	}
	w.learn(event, b.choose)
	b.nodes.place(event)
	event = b.nodes.onOneClock(event)
	var findings []*controlv1.Finding
	if change := w.resized(event); change != nil {
		findings = w.observe(change, &b.nodes)
	}
	findings = append(findings, w.observe(event, &b.nodes)...)
	b.now = w.stand(event)
	switch body := event.GetBody().(type) {
	case *commonv1.Event_RunEnded:
		delete(b.runs, event.GetRunId())
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
	for _, run := range b.nodes.byName[event.GetNode()].runs {
		findings = append(findings, b.runs[run].observe(event, &b.nodes)...)
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

// Runs gives the number of runs whose detectors the bank holds.
func (b *Bank) Runs() int { return len(b.runs) }

// watch gives the detectors of the event's run; nil where there are none. Only
// what happens to training processes starts a run; word of its checkpoints may
// come after its end. A run that ended begins again when its processes are launched again.
func (b *Bank) watch(event *commonv1.Event) *watch {
	run := event.GetRunId()
	if w, ok := b.runs[run]; ok {
		return w
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
	w := &watch{run: run}
	w.begin(b.choose(run, ""))
	b.runs[run] = w
	return w
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
