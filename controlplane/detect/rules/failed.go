package rules

import (
	"fmt"
	"strings"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Failed says that an attempt failed in a way that a person should know of.
//
// Method: the supervisor's own word. Critical where its policy calls a person:
// each time for kinds with `page: always`, and for others when the run is given
// up. A warning where it ended a command that hung: nobody else may have seen
// that, as a command without the SDK reports no steps. Several supervisors of
// one attempt are one finding.
//
// What it confuses: nothing; it is as right as the supervisor's diagnosis.
func Failed() detect.Rule {
	return detect.Rule{
		Code:     "failed",
		Title:    "An attempt failed",
		Severity: commonv1.Severity_SEVERITY_CRITICAL,
		New:      func() detect.Detector { return &failed{} },
	}
}

type failed struct {
	said    bool
	attempt uint32
	step    int64
}

// Open is always false: the end of an attempt is no state.
func (d *failed) Open() bool { return false }

// Observe takes the run's next event.
func (d *failed) Observe(event *commonv1.Event) []*controlv1.Finding {
	if s := event.GetStep(); s != nil {
		d.step = s.GetStep()
	}
	end := event.GetAttemptEnded()
	hung := end.GetFailure() == commonv1.FailureKind_FAILURE_KIND_HANG
	if end == nil || (d.said && event.GetAttempt() <= d.attempt) || !(end.GetRecovery().GetPage() || hung) {
		return nil
	}
	d.said, d.attempt = true, event.GetAttempt()
	if end.Step != nil {
		d.step = end.GetStep()
	}
	f := detect.FindingOf(event, d.step+1, d.step+1)
	if !end.GetRecovery().GetPage() {
		f.Severity = commonv1.Severity_SEVERITY_WARNING
	}
	kind := "no failure named"
	if end.GetFailure() != commonv1.FailureKind_FAILURE_KIND_UNSPECIFIED {
		kind = strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(end.GetFailure().String(), "FAILURE_KIND_"), "_", " "))
	}
	follows := "no other follows"
	if end.GetRestarting() {
		follows = "another follows"
	}
	f.Summary = fmt.Sprintf("Attempt %d of run %s failed after step %d (%s) and %s: %s.",
		event.GetAttempt(), event.GetRunId(), d.step, kind, follows, strings.TrimSuffix(end.GetRecovery().GetDecision(), "."))
	return []*controlv1.Finding{f}
}
