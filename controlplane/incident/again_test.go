package incident_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func started(e *commonv1.Event) {
	e.Body = &commonv1.Event_AttemptStarted{AttemptStarted: &commonv1.AttemptStarted{}}
}

// met has rank 0 meet a NaN. The finding is the test's and not a rule's, with an
// id of its own.
func (d *desk) met(attempt uint32, step int64) {
	d.Helper()
	e := d.event(attempt, nonFinite(step, true))
	d.sequence++
	d.happenOnly(e, &controlv1.Finding{FindingId: fmt.Sprint("f", d.sequence), RunId: "r", Kind: "nonfinite", Attempt: attempt,
		OnsetStep: step, Step: step, EventTime: e.GetTime(), Severity: commonv1.Severity_SEVERITY_CRITICAL, Summary: "Rank 0 met a NaN."})
}

// again gives the timeline's entries on a problem that came again.
func again(i *controlv1.Incident) []string {
	var all []string
	for _, e := range i.GetTimeline() {
		if strings.HasPrefix(e.GetText(), "It came again") {
			all = append(all, e.GetAction()+": "+e.GetText())
		}
	}
	return all
}

// TestComesAgain has the same NaN in three attempts: one incident that is told
// once, and an emergency checkpoint for each of them.
func TestComesAgain(t *testing.T) {
	d := newDesk(t)
	d.begin()
	for attempt := range uint32(3) {
		d.happen(d.event(attempt, registered))
		d.met(attempt, 41)
		d.happen(d.event(attempt, attemptEnded(nonfin, true)))
	}
	i := d.only()
	d.same("again", again(i), []string{
		"finding: It came again, in attempt 1, for the 2nd time: Rank 0 met a NaN.",
		"finding: It came again, in attempt 2, for the 3rd time: Rank 0 met a NaN.",
	})
	d.same("told", told(i), []string{"hook firing", "slack firing"})
	d.same("commands", len(d.commands()), 3)
	if !strings.Contains(i.GetSummary(), "This is the 3rd time.") || !strings.Contains(i.GetSummary(), "Restarts do not get past it") {
		t.Errorf("the summary does not say that it came again: %s", i.GetSummary())
	}
	d.happen(d.event(2, step(50, 1)))
	d.same("the last attempt does not resolve it", d.only().GetState(), controlv1.IncidentState_INCIDENT_STATE_FIRING)
	d.met(3, 42) // another problem
	d.same("incidents", len(d.incidents()), 2)
}

// TestReopens has a run end, start again under the same id and number of
// attempt, and meet the same NaN: soon after, it is the same incident.
func TestReopens(t *testing.T) {
	for wait, want := range map[time.Duration]int{9 * time.Minute: 1, 11 * time.Minute: 2} {
		t.Run(wait.String(), func(t *testing.T) {
			d := newDesk(t)
			d.begin()
			d.met(0, 41)
			d.happen(d.event(0, runEnded(commonv1.Outcome_OUTCOME_STOPPED)))
			d.now = d.now.Add(wait)
			d.happen(d.event(0, started))
			d.happen(d.event(0, registered))
			d.met(0, 41)
			all := d.incidents()
			if len(all) != want {
				t.Fatalf("there are %d incidents, want %d", len(all), want)
			}
			last := all[len(all)-1]
			d.same("state", last.GetState(), controlv1.IncidentState_INCIDENT_STATE_FIRING)
			d.same("resolved", last.GetResolved(), (*timestamppb.Timestamp)(nil))
			if want == 1 {
				d.same("told", told(last), []string{"hook firing", "slack firing", "hook resolved", "slack resolved", "hook firing", "slack firing"})
				d.same("again", again(last), []string{"reopened: It came again, in attempt 0, for the 2nd time: Rank 0 met a NaN."})
			}
			d.same("emergency checkpoints", len(d.commands()), 2)
		})
	}
}

// TestStartedAgain is a run that was stopped, started again under the same id,
// and struck by a NaN: an incident that stays open, and an emergency checkpoint.
func TestStartedAgain(t *testing.T) {
	d := newDesk(t)
	d.begin()
	d.happen(d.event(0, runEnded(commonv1.Outcome_OUTCOME_STOPPED)))
	old := d.event(0, runEnded(commonv1.Outcome_OUTCOME_STOPPED)) // another node's word
	d.happen(d.event(0, started))
	d.happen(d.event(0, registered))
	d.met(0, 12)
	old.Node = "n2"
	d.happen(old)
	i := d.only()
	d.same("state", i.GetState(), controlv1.IncidentState_INCIDENT_STATE_FIRING)
	d.same("emergency checkpoints", len(d.commands()), 1)
}

// TestDivergedToTheEnd: that a run made its steps does not say that it is well.
func TestDivergedToTheEnd(t *testing.T) {
	d := newDesk(t)
	d.begin()
	d.happen(d.event(0, step(41, 1)), &controlv1.Finding{FindingId: "f", RunId: "r", Kind: "divergence", OnsetStep: 41, Summary: "It diverges."})
	d.happen(d.event(0, runEnded(commonv1.Outcome_OUTCOME_SUCCEEDED)))
	entries := timeline(d.only())
	want := "resolved: The run made all its steps; whether its loss came back is for a person to judge."
	if last := entries[len(entries)-1]; !strings.HasSuffix(last, want) {
		t.Errorf("the last entry is %q, want %q", last, want)
	}
}
