package rules

import (
	"fmt"
	"strings"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Crash says which of its nodes' problems ended an attempt of a run.
//
// Method: an attempt that ended by a crash, a signal, or a failure of GPU,
// network, memory or disk, close in time to a problem of one of its nodes that
// explains it. Without such a problem it says nothing: the supervisor's own word
// is on the run then. The cause may come up to a minute later: kernel logs do.
//
// What it confuses: two things that happened together by chance.
func Crash() detect.Rule {
	return detect.Rule{
		Code:       kindCrash,
		Title:      "Attempt ended by a fault of its node",
		Severity:   commonv1.Severity_SEVERITY_CRITICAL,
		Under:      []string{kindNonFinite},
		OnlyCaused: true,
		New:        func() detect.Detector { return &crash{} },
	}
}

// crash says it once an attempt.
type crash struct {
	said    bool
	attempt uint32
	step    int64
}

// Open is always false: the end of an attempt is no state.
func (d *crash) Open() bool { return false }

// Observe takes the run's next event.
func (d *crash) Observe(event *commonv1.Event) []*controlv1.Finding {
	if s := event.GetStep(); s != nil {
		d.step = s.GetStep()
	}
	end := event.GetAttemptEnded()
	if end == nil || (d.said && event.GetAttempt() <= d.attempt) || !crashed(end.GetFailure()) {
		return nil
	}
	d.said, d.attempt = true, event.GetAttempt()
	f := detect.FindingOf(event, d.step, d.step)
	why := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(end.GetFailure().String(), "FAILURE_KIND_"), "_", " "))
	f.Summary = fmt.Sprintf("Attempt %d of run %s ended after step %d (%s).", event.GetAttempt(), event.GetRunId(), d.step, why)
	return []*controlv1.Finding{f}
}

// crashed tells whether a node's problem may be behind a failure.
func crashed(kind commonv1.FailureKind) bool {
	switch kind {
	case commonv1.FailureKind_FAILURE_KIND_HOST_OOM, commonv1.FailureKind_FAILURE_KIND_GPU_FAULT,
		commonv1.FailureKind_FAILURE_KIND_NETWORK, commonv1.FailureKind_FAILURE_KIND_NODE_LOST,
		commonv1.FailureKind_FAILURE_KIND_DISK_FULL, commonv1.FailureKind_FAILURE_KIND_KILLED,
		commonv1.FailureKind_FAILURE_KIND_CRASH, commonv1.FailureKind_FAILURE_KIND_HANG:
		return true
	}
	return false
}
