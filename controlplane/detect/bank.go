package detect

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// endedRuns is how many runs that ended a bank remembers, so that their last
// events, which may come late from another node, do not start them anew.
const endedRuns = 1024

// Bank has the detectors of every run that goes on. Runs do not influence each
// other. It is used by one goroutine at a time.
type Bank struct {
	choose Choose
	runs   map[string]*watch
	ended  ring
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
	return &Bank{choose: choose, runs: map[string]*watch{}, ended: newRing(endedRuns)}
}

// Observe takes the next event of any run and gives what it shows, with ids
// that are the same whenever the same events are observed. Created is left for
// the caller, since a bank has no clock. An event without a run shows nothing.
func (b *Bank) Observe(event *commonv1.Event) []*controlv1.Finding {
	w := b.watch(event)
	if w == nil {
		return nil
	}
	w.learn(event, b.choose)
	var findings []*controlv1.Finding
	if change := w.resized(event); change != nil {
		findings = w.observe(change)
	}
	findings = append(findings, w.observe(event)...)
	if _, ok := event.GetBody().(*commonv1.Event_RunEnded); ok {
		delete(b.runs, event.GetRunId())
		b.ended.add(event.GetRunId())
	}
	return findings
}

// Runs gives the number of runs whose detectors the bank holds.
func (b *Bank) Runs() int { return len(b.runs) }

// watch gives the detectors of the event's run; nil where there are none. Only what happens to
// training processes starts a run; word of its checkpoints may come after its
// end. A run that ended begins again when its processes are launched again.
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
	w := &watch{}
	w.begin(b.choose(run, ""))
	b.runs[run] = w
	return w
}

func complete(finding *controlv1.Finding, rule Rule, event *commonv1.Event) {
	finding.Kind, finding.Shadow = rule.Code, rule.Shadow
	if finding.GetSeverity() == commonv1.Severity_SEVERITY_UNSPECIFIED {
		finding.Severity = rule.Severity
	}
	finding.FindingId = ID(rule.Code, finding.GetOnsetStep(), event)
}

// ID is the id of a finding that an event shows: the same whenever the same
// events are observed, and another when a run that is started again meets the
// same problem at the same step.
func ID(kind string, onsetStep int64, event *commonv1.Event) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %d %d %q", event.GetRunId(), kind, event.GetAttempt(), onsetStep, event.GetEventId()))
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
