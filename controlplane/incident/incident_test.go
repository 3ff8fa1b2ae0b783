package incident_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/incident"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestNaN is the whole story of a NaN, from the event to the last row.
func TestNaN(t *testing.T) {
	d := newDesk(t)
	d.begin()
	d.happen(d.event(0, nonFinite(41, true)))
	opened := d.only()

	commands := d.commands()
	if len(commands) != 1 {
		t.Fatalf("there are %d commands, want one", len(commands))
	}
	id, order := commands[0].CheckpointID, commands[0].Wire.GetCheckpoint()
	d.same("order", []any{order.GetReason(), order.GetAfter(), order.GetFailure(), commands[0].Deadline}, []any{
		commonv1.CheckpointReason_CHECKPOINT_REASON_EMERGENCY, commonv1.AfterCheckpoint_AFTER_CHECKPOINT_RESTART, nonfin, d.now.Add(time.Minute),
	})
	d.same("summary", opened.GetSummary(), "Rank 0 on node n1 met 3 NaN of 64 values in the gradient of w1 at step 41; "+
		"the parameters are as the last good step left them. Seen at 03:12:00 UTC. "+
		"The last verified checkpoint is of step 30: 10 steps would be lost. "+
		"Vigil asked for emergency checkpoint "+id+" and a restart from it. Nothing is to be done unless it comes again.")
	d.same("told", told(opened), []string{"hook firing", "slack firing"})
	d.traced(commands[0].Wire.GetTraceparent())

	for _, state := range []commonv1.CheckpointState{directed, staged, durable, verified, verified} {
		d.happen(d.event(0, progress(id, state, 40)))
	}
	d.happen(d.event(0, attemptEnded(nonfin, true)))
	d.happen(d.event(0, attemptEnded(nonfin, true))) // another node's word
	d.happen(d.event(1, registered))
	d.happen(d.event(1, resumed(id, 40)))
	d.same("firing", d.firing(), 1.0)
	d.happen(d.event(1, step(41, 1)))
	over := d.only()
	d.same("firing", d.firing(), 0.0)
	d.same("timeline", timeline(over), []string{
		"+0 opened: Rank 0 on node n1 met 3 NaN of 64 values in the gradient of w1 at step 41; the parameters are as the last good step left them.",
		"+0 checkpoint: Asked for emergency checkpoint " + id + " and a restart from it.",
		"+1 directive: The trainers got the directive to save checkpoint " + id + " after 1 ms.",
		"+2 checkpoint: Checkpoint " + id + " of step 40 is staged after 2 ms.",
		"+3 checkpoint: Checkpoint " + id + " of step 40 is durable after 3 ms.",
		"+4 checkpoint: Checkpoint " + id + " of step 40 is verified after 4 ms.",
		"+6 restart: Attempt 0 ended (nonfinite); another follows.",
		"+9 restart: Attempt 1 goes on from checkpoint " + id + " of step 40.",
		"+10 resolved: Attempt 1 passed step 41 with a finite loss.",
	})
	d.same("told", told(over), []string{"hook firing", "slack firing", "hook resolved", "slack resolved"})
	d.same("kind", over.GetKind(), "nonfinite")
	d.same("lasted", over.GetResolved().AsTime().Sub(over.GetOpened().AsTime()), 10*time.Millisecond)
	if !strings.HasSuffix(over.GetSummary(), "Resolved: attempt 1 passed step 41 with a finite loss.") {
		t.Errorf("the summary does not say why it is over: %s", over.GetSummary())
	}
}

// traced checks that command and notifications belong to the event's trace,
// below the engine's span.
func (d *desk) traced(command string) {
	d.Helper()
	ended := d.spans.Ended()
	if len(ended) != 1 || ended[0].Name() != "vigil.incident" {
		d.Fatalf("the spans are %v, want one vigil.incident", ended)
	}
	due, err := d.store.Outbox().Lease(d.Context(), 10, time.Minute)
	if err != nil || len(due) != 2 {
		d.Fatalf("leased %v (%v), want two", due, err)
	}
	want := fmt.Sprintf("00-%s-%s-01", ended[0].SpanContext().TraceID(), ended[0].SpanContext().SpanID())
	for _, got := range []string{command, due[0].Traceparent, due[1].Traceparent} {
		d.same("traceparent", got, want)
	}
}

func (d *desk) firing() float64 {
	d.Helper()
	families, err := d.registry.Gather()
	if err != nil || len(families) != 1 {
		d.Fatalf("metrics are %v (%v), want one", families, err)
	}
	return families[0].GetMetric()[0].GetGauge().GetValue()
}

func TestAnswers(t *testing.T) {
	finding := func(kind string) *controlv1.Finding {
		return &controlv1.Finding{FindingId: kind, Kind: kind, RunId: "r", OnsetStep: 41, Step: 44, Summary: "It is bad.",
			EventTime: timestamppb.New(start), Severity: commonv1.Severity_SEVERITY_WARNING}
	}
	const good = "The last verified checkpoint is of step 30: 13 steps would be lost. "
	tests := []struct {
		name    string
		trained bool // whether there is a checkpoint
		body    func(*commonv1.Event)
		finding *controlv1.Finding // beside the rules'
		saveErr error
		want    string // what the summary ends with
	}{
		{"parameters damaged", true, nonFinite(41, false), nil, nil,
			"10 steps would be lost. Vigil changed nothing. A checkpoint of the present state would be poisoned: roll back to the checkpoint of step 30 (c30)."},
		{"non-finite loss", true, step(41, math.NaN()), nil, nil,
			"Vigil changed nothing. A checkpoint of the present state would be poisoned: roll back to the checkpoint of step 30 (c30)."},
		{"divergence", true, step(41, 1), finding("divergence"), nil,
			good + "Vigil changed nothing. If the loss does not come back, roll back to the checkpoint of step 30 (c30) and go on with a lower learning rate."},
		{"no checkpoint", false, step(41, 1), finding("divergence"), nil,
			"There is no verified checkpoint from before it. Vigil changed nothing. If the loss does not come back, " +
				"roll back to an earlier checkpoint of your own and go on with a lower learning rate."},
		{"another kind", true, step(41, 1), finding("straggler"), nil, "It is bad. Seen at 03:12:00 UTC. " + good + "Vigil changed nothing."},
		{"nobody to save", true, nonFinite(41, true), nil, fault.New(fault.Unavailable, "save run r: no agent"),
			"Vigil could not have it saved: save run r: no agent. Roll back to the checkpoint of step 30 (c30), or save by hand: agentctl checkpoint --now --run r."},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d := newDesk(t)
			if test.trained {
				d.begin()
			}
			d.saveErr = test.saveErr
			var more []*controlv1.Finding
			if test.finding != nil {
				more = append(more, test.finding)
			}
			d.happen(d.event(0, test.body), more...)
			if got := d.only().GetSummary(); !strings.HasSuffix(got, test.want) {
				t.Errorf("the summary is\n%s\nand should end with\n%s", got, test.want)
			}
			if got := d.commands(); len(got) != 0 {
				t.Errorf("there are commands: %v", got)
			}
		})
	}
}

func TestStoreErrorStops(t *testing.T) {
	d := newDesk(t)
	d.begin()
	d.saveErr = errors.New("planted")
	if err := d.apply(d.event(0, nonFinite(41, true))); !errors.Is(err, d.saveErr) {
		t.Errorf("got %v, want the planted error", err)
	}
	if got := d.incidents(); len(got) != 0 {
		t.Errorf("half a transaction is there: %v", got)
	}
}

// TestStoreErrorIsNoRefusal: an error of the store may be of the kind of a refusal
// to save. It is not told of as one, and the transaction does not go on.
func TestStoreErrorIsNoRefusal(t *testing.T) {
	d := newDesk(t)
	d.begin()
	d.saveIn = func(tx *store.Tx) error {
		for _, key := range []string{"a", "b"} { // with one id
			if _, err := tx.InsertCommand(store.Command{ID: "c", IdempotencyKey: key, Wire: &agentv1.Command{}}); err != nil {
				return fault.Mark(fault.Unavailable, err)
			}
		}
		return nil
	}
	err := d.apply(d.event(0, nonFinite(41, true)))
	if err == nil || !strings.Contains(err.Error(), "insert command c:") || strings.Contains(err.Error(), "checkpoints") {
		t.Errorf("got %v, want the store's error and nothing of what comes behind it", err)
	}
	if got := d.incidents(); len(got) != 0 {
		t.Errorf("half a transaction is there: %v", got)
	}
}

func TestCheckpointFails(t *testing.T) {
	d := newDesk(t)
	d.begin()
	d.happen(d.event(0, nonFinite(41, true)))
	d.happen(d.event(0, progress(d.commands()[0].CheckpointID, failed, 0)))
	entries := timeline(d.only())
	if last := entries[len(entries)-1]; !strings.HasSuffix(last, " failed after 1 ms: disk full at 100%.") {
		t.Errorf("the last entry is %q", last)
	}
}

// TestStorm has a thousand ranks with the same problem: one incident, one
// checkpoint, one notification for each receiver, a short timeline.
func TestStorm(t *testing.T) {
	d := newDesk(t)
	d.begin()
	for rank := range uint32(1000) {
		e := d.event(0, nonFinite(41, true))
		e.Rank, e.Node = rank, fmt.Sprintf("n%d", rank)
		d.happen(e, &controlv1.Finding{FindingId: fmt.Sprint("f", rank), Kind: "nonfinite", RunId: "r", OnsetStep: 41, Rank: rank,
			Severity: commonv1.Severity_SEVERITY_CRITICAL, EventTime: e.GetTime(), Summary: fmt.Sprintf("Rank %d.", rank)})
	}
	i := d.only()
	if len(i.GetFindings()) != store.FindingsShown || i.GetFindings()[0].GetRank() != 0 {
		t.Errorf("%d findings are shown, the first of rank %d", len(i.GetFindings()), i.GetFindings()[0].GetRank())
	}
	d.same("told", told(i), []string{"hook firing", "slack firing"})
	d.same("commands", len(d.commands()), 1)
	if n := len(i.GetTimeline()); n > 16 {
		t.Errorf("the timeline has %d entries: %v", n, timeline(i))
	}
	d.happen(d.event(0, runEnded(commonv1.Outcome_OUTCOME_FAILED)))
	entries := timeline(d.only())
	if last := entries[len(entries)-1]; !strings.HasSuffix(last, "resolved: The run ended. It had 1001 findings.") {
		t.Errorf("the last entry is %q", last)
	}
}

// TestWarningsCallNobody has a warning long before what breaks the run: two
// incidents, and word of the second alone.
func TestWarningsCallNobody(t *testing.T) {
	d := newDesk(t)
	d.begin()
	d.happen(d.event(0, step(40, 1)), &controlv1.Finding{FindingId: "w", Kind: "spike", RunId: "r", OnsetStep: 40,
		Severity: commonv1.Severity_SEVERITY_WARNING, Summary: "A spike."})
	d.happen(d.event(0, nonFinite(900, false)))
	d.happen(d.event(0, runEnded(commonv1.Outcome_OUTCOME_FAILED)))
	incidents := d.incidents()
	if len(incidents) != 2 {
		t.Fatalf("there are %d incidents, want 2", len(incidents))
	}
	for _, i := range incidents {
		want := []string{"hook firing", "slack firing", "hook resolved", "slack resolved"}
		if i.GetKind() == "spike" {
			want = nil
		}
		d.same(i.GetKind(), told(i), want)
		d.same("state", i.GetState(), controlv1.IncidentState_INCIDENT_STATE_RESOLVED)
	}
}

// TestCauseFirst has an effect found before its cause.
func TestCauseFirst(t *testing.T) {
	d := newDesk(t)
	d.begin()
	finding := func(id, kind string, onset int64, severity commonv1.Severity) *controlv1.Finding {
		return &controlv1.Finding{FindingId: id, Kind: kind, RunId: "r", OnsetStep: onset, Severity: severity, Summary: id + "."}
	}
	const warning, critical = commonv1.Severity_SEVERITY_WARNING, commonv1.Severity_SEVERITY_CRITICAL
	d.happen(d.event(0, step(44, 1)), finding("effect", "divergence", 44, warning))
	d.happen(d.event(0, step(45, 1)), finding("also", "divergence", 45, warning))
	if got := told(d.only()); len(got) != 0 {
		t.Errorf("somebody was told of warnings: %v", got)
	}
	d.happen(d.event(0, step(46, 1)), finding("cause", "throttling", 40, critical))
	i := d.only()
	d.same("kind", i.GetKind(), "throttling")
	d.same("severity", i.GetSeverity(), critical)
	d.same("told, as it is worse", told(i), []string{"hook firing", "slack firing"})
	if !strings.HasPrefix(i.GetSummary(), "cause.") {
		t.Errorf("the summary is %q", i.GetSummary())
	}
	var order []string
	for _, f := range i.GetFindings() {
		order = append(order, f.GetFindingId())
	}
	d.same("findings", order, []string{"cause", "effect", "also"})
	d.happen(d.event(1, step(44, 1)))
	d.same("not past the last onset", d.only().GetResolved(), (*timestamppb.Timestamp)(nil))
	d.happen(d.event(1, step(45, 1)))
	if d.only().GetResolved() == nil {
		t.Error("past the last onset and not resolved")
	}
}

func TestResolve(t *testing.T) {
	onNode := func(rank uint32, body func(*commonv1.Event)) func(*commonv1.Event) {
		return func(e *commonv1.Event) { body(e); e.Rank = rank }
	}
	tests := []struct {
		name    string
		attempt uint32
		body    func(*commonv1.Event)
		want    string // the reason; empty when it goes on
	}{
		{"a later attempt passes", 1, step(41, 1), "Attempt 1 passed step 41 with a finite loss."},
		{"the same attempt goes on", 0, step(42, 1), ""},
		{"a later attempt is not there yet", 1, step(40, 1), ""},
		{"a later attempt is as bad", 1, step(41, math.Inf(1)), ""},
		{"another rank", 1, onNode(1, step(41, 1)), ""},
		{"no loss", 1, func(e *commonv1.Event) { e.Body = &commonv1.Event_Step{Step: &commonv1.StepReport{Step: 50}} }, ""},
		{"the run succeeds", 1, runEnded(commonv1.Outcome_OUTCOME_SUCCEEDED), "The run made all its steps."},
		{"the run fails", 0, runEnded(commonv1.Outcome_OUTCOME_FAILED), "The run ended."},
		{"the run is stopped", 0, runEnded(commonv1.Outcome_OUTCOME_STOPPED), "The run ended."},
		{"no other attempt follows", 0, attemptEnded(nonfin, false), "The run ended."},
		{"another attempt follows", 0, attemptEnded(nonfin, true), ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d := newDesk(t)
			d.begin()
			d.happen(d.event(0, nonFinite(41, true)))
			d.happen(d.event(test.attempt, test.body))
			i := d.only()
			last := i.GetTimeline()[len(i.GetTimeline())-1]
			over := i.GetState() == controlv1.IncidentState_INCIDENT_STATE_RESOLVED
			switch {
			case over != (test.want != ""), over != (i.GetResolved() != nil):
				t.Errorf("the incident is %v", i)
			case over && (last.GetAction() != "resolved" || last.GetText() != test.want):
				t.Errorf("the last entry is %v, want %q", last, test.want)
			}
		})
	}
}

// TestFindingAfterTheEnd opens an incident, so that somebody is told, and does
// not leave it open.
func TestFindingAfterTheEnd(t *testing.T) {
	d := newDesk(t)
	d.begin()
	d.happen(d.event(0, runEnded(commonv1.Outcome_OUTCOME_FAILED)))
	d.happen(d.event(0, nonFinite(41, true)), &controlv1.Finding{FindingId: "late", RunId: "r", Kind: "nonfinite", Summary: "Late."})
	d.same("told", told(d.only()), []string{"hook firing", "slack firing", "hook resolved", "slack resolved"})
}

func TestID(t *testing.T) {
	seen := map[string]bool{}
	for n := range 1000 {
		id := incident.ID(fmt.Sprint("finding-", n))
		if len(id) != 16 || id != strings.ToLower(id) || !strings.HasPrefix(id, "inc-") || seen[id] {
			t.Fatalf("id %q is not good, or not new", id)
		}
		seen[id] = true
	}
	if first, second := incident.ID("x"), incident.ID("x"); first != second {
		t.Errorf("one finding has two ids, %s and %s", first, second)
	}
}
