package incident

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// Expect is something that must keep arriving: the events of a run, of a node,
// or the pings of a program that Vigil does not know. When it stays away for
// Within, an incident of kind "missing" opens, and it is over when it arrives
// again. Exactly one of Run, Node and Ping says what.
type Expect struct {
	Name string `yaml:"name"`
	// Run is a run's id; it is expected until the run has ended.
	Run string `yaml:"run"`
	// Node is a node's name.
	Node string `yaml:"node"`
	// Ping is a name that programs post to: /ping/NAME on the operators' port.
	Ping string `yaml:"ping"`
	// Within is how long it may stay away.
	Within time.Duration `yaml:"within"`
	// Severity is the incident's: info, warning or critical, which is the default.
	Severity string `yaml:"severity"`
}

// Check reports what is missing.
func (c Expect) Check(report func(key, format string, args ...any)) {
	if c.Name == "" {
		report("name", "is missing")
	}
	if c.Within < time.Second {
		report("within", "is %v; want at least 1s", c.Within)
	}
	given := 0
	for _, of := range []string{c.Run, c.Node, c.Ping} {
		if of != "" {
			given++
		}
	}
	if given != 1 {
		report("run", "want exactly one of run, node and ping")
	}
}

// heard is when each expected thing was last heard of. It is in memory: after a
// restart everything has its time anew. Where control planes share the store it
// is there too, since what is heard here may be looked for elsewhere; it is
// written now and then.
type heard struct {
	rules  []Expect
	shared bool
	mu     sync.Mutex
	last   []time.Time
	wrote  []time.Time // when it was last written
}

// writtenWithin is how much of its time may pass before word of something is
// written.
const writtenWithin = 8

func newHeard(rules []Expect, shared bool, now time.Time) *heard {
	h := &heard{rules: rules, shared: shared, last: make([]time.Time, len(rules)), wrote: make([]time.Time, len(rules))}
	for n := range h.last {
		h.last[n] = now
	}
	return h
}

// event notes that a run and a node were heard of.
func (h *heard) event(event *commonv1.Event, now time.Time) {
	if len(h.rules) == 0 {
		return
	}
	h.note(now, func(rule Expect) bool {
		return rule.Run != "" && rule.Run == event.GetRunId() || rule.Node != "" && rule.Node == event.GetNode()
	})
}

func (h *heard) note(now time.Time, is func(Expect) bool) (found bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for n, rule := range h.rules {
		if is(rule) {
			h.last[n], found = now, true
		}
	}
	return found
}

func (h *heard) at(n int) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last[n]
}

// unwritten gives the rules of which something newer was heard than is written,
// and takes them for written.
func (h *heard) unwritten() []int {
	if !h.shared || len(h.rules) == 0 {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var due []int
	for n, rule := range h.rules {
		if h.last[n].Sub(h.wrote[n]) >= rule.Within/writtenWithin {
			h.wrote[n] = h.last[n]
			due = append(due, n)
		}
	}
	return due
}

// writeHeard writes what was heard of, where others are to know.
func (e *Engine) writeHeard(tx *store.Tx, rules []int) error {
	for _, n := range rules {
		if err := tx.PutHeard(e.heard.rules[n].Name, e.heard.at(n)); err != nil {
			return err
		}
	}
	return nil
}

// Ping notes that a program gave a sign of life; false when nobody expects it.
func (e *Engine) Ping(ctx context.Context, name string) (expected bool, err error) {
	expected = e.heard.note(e.deps.Clock(), func(rule Expect) bool { return rule.Ping == name })
	if due := e.heard.unwritten(); len(due) > 0 {
		err = e.deps.Store.Update(ctx, func(tx *store.Tx) error { return e.writeHeard(tx, due) })
	}
	return expected, err
}

// missing opens and ends the incidents about what is expected.
func (e *Engine) missing(ctx context.Context, tx *store.Tx) error {
	for n, rule := range e.config.Expect {
		last, now := e.heard.at(n), e.deps.Clock()
		if e.heard.shared {
			written, err := tx.Heard(rule.Name)
			if err != nil {
				return err
			}
			if written.After(last) {
				last = written
			}
		}
		if rule.Node != "" {
			node, err := tx.Node(rule.Node)
			if err != nil && !fault.Is(err, fault.NotFound) {
				return err
			}
			if seen := node.GetLastSeen(); seen != nil && seen.AsTime().After(last) {
				last = seen.AsTime()
			}
		}
		away := now.Sub(last) > rule.Within
		if rule.Run != "" && away {
			run, err := tx.Run(rule.Run)
			if err != nil && !fault.Is(err, fault.NotFound) {
				return err
			}
			away = run.GetEnded() == nil
		}
		if err := e.expected(ctx, tx, rule, away, last); err != nil {
			return fmt.Errorf("expect %s: %w", rule.Name, err)
		}
	}
	return nil
}

func (e *Engine) expected(ctx context.Context, tx *store.Tx, rule Expect, away bool, last time.Time) error {
	a := External{Labels: rule.labels(), Annotations: map[string]string{
		"summary": fmt.Sprintf("%s stays away: nothing for more than %v.", rule.what(), rule.Within),
	}}
	a.fingerprint = alert.Fingerprint(a.Labels)
	record, found, err := tx.ExternalIncident(a.fingerprint)
	if err != nil {
		return err
	}
	open := found && record.Incident.GetState() != resolved
	switch {
	case away && !open && found && e.deps.Clock().Sub(record.Changed) <= againWithin:
		a.Starts = last
		return e.externalAgain(ctx, tx, record, a, time.Time{})
	case away && !open:
		a.Starts = last
		opened, err := e.openExternal(tx, a, time.Time{})
		if err != nil {
			return err
		}
		return e.deps.Router.Alert(ctx, tx, opened)
	case !away && open:
		return e.resolve(ctx, tx, e.deps.Clock(), record, "It arrives again.", "")
	}
	return nil
}

func (c Expect) what() string {
	switch {
	case c.Run != "":
		return "Run " + c.Run
	case c.Node != "":
		return "Node " + c.Node
	}
	return "Ping " + c.Ping
}

func (c Expect) labels() map[string]string {
	labels := map[string]string{alert.LabelName: "missing", "expect": c.Name, alert.LabelSeverity: c.Severity}
	if c.Severity == "" {
		labels[alert.LabelSeverity] = "critical"
	}
	if c.Run != "" {
		labels[alert.LabelRun] = c.Run
	}
	if c.Node != "" {
		labels[alert.LabelNode] = c.Node
	}
	return labels
}
