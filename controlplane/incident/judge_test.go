package incident_test

import (
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/detect"
	"github.com/vigil-ml/vigil/controlplane/store"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Which findings make checkpoints suspect: critical ones that speak of the state
// that is trained, of a run.
func TestFindingsJudgeCheckpoints(t *testing.T) {
	const warning, critical = commonv1.Severity_SEVERITY_WARNING, commonv1.Severity_SEVERITY_CRITICAL
	for name, c := range map[string]struct {
		kind     string
		severity commonv1.Severity
		want     bool
	}{
		"a NaN":                       {"nonfinite", critical, true},
		"divergence":                  {"divergence", critical, true},
		"explosion":                   {"explosion", critical, true},
		"collapse":                    {"weight_collapse", critical, true},
		"parameters":                  {"parameters", critical, true},
		"an explosion that is slight": {"explosion", warning, false},
		"a hang":                      {"hang", critical, false},
		"a slow rank":                 {"straggler", warning, false},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t)
			d.begin()
			d.happen(d.event(3, step(41, 1)), &controlv1.Finding{
				FindingId: "f", Kind: c.kind, RunId: "r", Attempt: 3, OnsetStep: 38, Step: 41, Summary: "It is bad.",
				EventTime: timestamppb.New(start), Severity: c.severity,
			})
			if !c.want {
				d.same("judgements", len(d.judged), 0)
				return
			}
			d.same("judgements", len(d.judged), 1)
			j := d.judged[0]
			d.same("judgement", []any{j.GetRunId(), j.GetJudgementId(), j.GetFirstAttempt(), j.GetAttempt(), j.GetFromStep(), j.GetToStep(), j.GetReason()},
				[]any{"r", "finding-f", uint32(3), uint32(3), int64(38), int64(0), "saved after " + c.kind + " began at step 38"})
		})
	}
}

// When the problem is seen no more, what is saved from then on is judged no more.
func TestAJudgementEndsWithItsProblem(t *testing.T) {
	d := newDesk(t)
	d.begin()
	d.happen(d.event(0, step(41, 1)), &controlv1.Finding{
		FindingId: "f", Kind: "explosion", RunId: "r", OnsetStep: 38, Step: 41, Summary: "It is bad.",
		EventTime: timestamppb.New(start), Severity: commonv1.Severity_SEVERITY_CRITICAL,
	})
	d.over = detect.Standing{Over: []string{"explosion"}}
	d.happen(d.event(0, step(60, 1)))
	d.same("judgements", len(d.judged), 2)
	d.same("the second", []any{d.judged[1].GetJudgementId(), d.judged[1].GetFromStep(), d.judged[1].GetToStep()}, []any{"finding-f", int64(38), int64(60)})
}

// A checkpoint that became suspect is in the incident's timeline, once however
// many nodes say so, and who follows the incident is told of it.
func TestSuspectsAreInTheTimeline(t *testing.T) {
	d := newDesk(t)
	d.begin()
	changed := func(health commonv1.CheckpointHealth, what commonv1.CheckpointChange) func(*commonv1.Event) {
		return func(e *commonv1.Event) {
			e.Body = &commonv1.Event_CheckpointChanged{CheckpointChanged: &commonv1.CheckpointChanged{
				CheckpointId: "c40", Step: 40, Change: what, Health: health, Reasons: []string{"élargi after nonfinite began at step 38"},
			}}
		}
	}
	const judged, pinned = commonv1.CheckpointChange_CHECKPOINT_CHANGE_JUDGED, commonv1.CheckpointChange_CHECKPOINT_CHANGE_PINNED
	d.happen(d.event(0, nonFinite(41, true)))
	before := len(d.only().GetTimeline())
	for _, timer := range d.stories() {
		d.update(func(tx *store.Tx) error { return tx.DeleteTimer(timer) })
	}
	d.happen(d.event(0, changed(commonv1.CheckpointHealth_CHECKPOINT_HEALTH_SUSPECT, judged)))
	d.same("followers to be told", len(d.stories()), 1)
	d.happen(d.event(0, changed(commonv1.CheckpointHealth_CHECKPOINT_HEALTH_SUSPECT, judged)))
	d.happen(d.event(0, changed(commonv1.CheckpointHealth_CHECKPOINT_HEALTH_HEALTHY, judged)))
	d.happen(d.event(0, changed(commonv1.CheckpointHealth_CHECKPOINT_HEALTH_SUSPECT, pinned)))
	d.same("entries", len(d.only().GetTimeline())-before, 1)
	d.same("entry", d.lately(1), []string{" checkpoint: Checkpoint c40 of step 40 is suspect. Élargi after nonfinite began at step 38."})
}

// stories gives the timers after which followers are told what happened.
func (d *desk) stories() (waiting []store.Timer) {
	d.Helper()
	d.update(func(tx *store.Tx) (err error) {
		waiting, err = tx.TimersOf("story", d.only().GetIncidentId())
		return err
	})
	return waiting
}

func (d *desk) update(do func(*store.Tx) error) {
	d.Helper()
	if err := d.store.Update(d.Context(), do); err != nil {
		d.Fatal(err)
	}
}

// calls is an end for which the supervisor calls a person.
func calls(restarting bool) func(*commonv1.Event) {
	return func(e *commonv1.Event) {
		attemptEnded(commonv1.FailureKind_FAILURE_KIND_GPU_FAULT, restarting)(e)
		e.GetAttemptEnded().Recovery = &commonv1.Recovery{Page: true, Decision: "gave up after 2 restarts"}
	}
}

func runFailed(e *commonv1.Event) {
	e.Body = &commonv1.Event_RunEnded{RunEnded: &commonv1.RunEnded{Outcome: commonv1.Outcome_OUTCOME_FAILED, Step: 40}}
}

// A supervisor that gives a run up calls a person: an incident opens, people are
// told, and the end of the run does not end it. The run that is started again
// and gets past the step does.
func TestAPageOpensAnIncident(t *testing.T) {
	d := newDesk(t)
	d.begin()
	d.happen(d.event(0, calls(false)))
	d.happen(d.event(0, runFailed))
	opened := d.only()
	d.same("kind", opened.GetKind(), "failed")
	d.same("state", opened.GetState(), controlv1.IncidentState_INCIDENT_STATE_FIRING)
	d.same("told", told(opened), []string{"hook firing", "slack firing"})
	d.happen(d.event(1, registered))
	d.happen(d.event(1, step(200, 1)))
	d.same("state", d.only().GetState(), controlv1.IncidentState_INCIDENT_STATE_RESOLVED)
}

// That a run is given up is part of the incident of what led to it, and told
// although that was.
func TestAPageJoinsWhatLedToIt(t *testing.T) {
	d := newDesk(t)
	d.begin()
	d.happen(d.event(0, nonFinite(41, true)))
	d.happen(d.event(0, calls(false)))
	d.happen(d.event(0, runFailed))
	only := d.only()
	d.same("kind", only.GetKind(), "nonfinite")
	d.same("findings", len(only.GetFindings()), 2)
	d.same("state", only.GetState(), controlv1.IncidentState_INCIDENT_STATE_FIRING)
}
