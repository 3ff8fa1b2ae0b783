package incident

import (
	"fmt"

	"github.com/vigil-ml/vigil/controlplane/store"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// ofState tells whether a kind of finding speaks of the state that is trained,
// so that what is saved while it lasts is not to be trusted.
func ofState(kind string) bool {
	switch kind {
	case nonFinite, divergence, "explosion", "weight_collapse", "parameters":
		return true
	}
	return false
}

// judge makes the checkpoints suspect that an attempt saves from a finding's onset
// on, up to a step; 0: as long as the attempt lasts.
func (e *Engine) judge(tx *store.Tx, f *controlv1.Finding, to int64) error {
	if e.deps.Judge == nil || f.GetRunId() == "" || f.GetSeverity() != commonv1.Severity_SEVERITY_CRITICAL || !ofState(f.GetKind()) {
		return nil
	}
	return e.deps.Judge(tx, &commonv1.CheckpointJudgement{
		RunId: f.GetRunId(), JudgementId: "finding-" + f.GetFindingId(), FirstAttempt: f.GetAttempt(), Attempt: f.GetAttempt(),
		FromStep: f.GetOnsetStep(), ToStep: to,
		Reason: fmt.Sprintf("saved after %s began at step %d", f.GetKind(), f.GetOnsetStep()),
	})
}
