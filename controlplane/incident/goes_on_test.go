package incident_test

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// hung is a finding of a rank that stands still after a step.
func (d *desk) hung(e *commonv1.Event, last int64) *controlv1.Finding {
	f := detect.FindingOf(e, last, last)
	f.Kind, f.Severity, f.Summary = "hang", commonv1.Severity_SEVERITY_CRITICAL, "It finishes no step."
	f.FindingId = detect.ID("hang", last, e)
	return f
}

func ticked(rank uint32, last int64) func(*commonv1.Event) {
	return func(e *commonv1.Event) {
		e.Rank = rank
		e.Body = &commonv1.Event_Tick{Tick: &commonv1.Tick{LastStep: last}}
	}
}

func stepOf(rank uint32, n int64) func(*commonv1.Event) {
	return func(e *commonv1.Event) {
		e.Rank = rank
		e.Body = &commonv1.Event_Step{Step: &commonv1.StepReport{Step: n, Loss: proto.Float64(1)}}
	}
}

// TestAHangIsOverWithTheNextStep of the rank that stood still, and of no other.
func TestAHangIsOverWithTheNextStep(t *testing.T) {
	d := newDesk(t)
	d.happen(d.event(0, registered))
	d.happen(d.event(0, stepOf(1, 10)))
	e := d.event(0, ticked(1, 10))
	d.happen(e, d.hung(e, 10))
	d.happen(d.event(0, stepOf(0, 11)))
	d.same("state while it hangs", d.only().GetState(), controlv1.IncidentState_INCIDENT_STATE_FIRING)
	d.happen(d.event(0, stepOf(1, 11)))
	d.same("state", d.only().GetState(), controlv1.IncidentState_INCIDENT_STATE_RESOLVED)
	d.same("end of the timeline", d.only().GetTimeline()[len(d.only().GetTimeline())-1].GetText(), "Rank 1 finished step 11.")

	e = d.event(0, ticked(1, 11))
	d.happen(e, d.hung(e, 11))
	d.same("incidents after the second hang", len(d.incidents()), 2)
}

// TestAHangWithOtherTroubleWaits for what ends that.
func TestAHangWithOtherTroubleWaits(t *testing.T) {
	d := newDesk(t)
	d.happen(d.event(0, registered))
	e := d.event(0, ticked(0, 10))
	d.happen(e, d.hung(e, 10))
	d.happen(d.event(0, nonFinite(11, true)))
	d.happen(d.event(0, stepOf(0, 11)))
	d.same("state", d.only().GetState(), controlv1.IncidentState_INCIDENT_STATE_FIRING)
}
