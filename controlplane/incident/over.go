package incident

import (
	"context"
	"fmt"
	"slices"

	"github.com/vigil-ml/vigil/controlplane/detect"
	"github.com/vigil-ml/vigil/controlplane/store"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// lasting tells of a kind that is not over because its detector sees it no
// more: a run that met a NaN is well when a later attempt gets past it, and
// whether a loss came back is for a person to judge. What a supervisor calls a
// person for is such a kind too.
func lasting(kind string) bool { return kind == nonFinite || kind == divergence || kind == gaveUp }

// SeenNoMore takes in that problems ended, as an event shows: the incidents of the
// same attempt are over that had one of them and of whose others none goes on.
func (e *Engine) SeenNoMore(ctx context.Context, tx *store.Tx, event *commonv1.Event, standing detect.Standing) error {
	open, err := tx.OpenIncidents(event.GetRunId())
	if err != nil {
		return err
	}
	for _, record := range open {
		if record.Attempt != event.GetAttempt() {
			continue
		}
		if still, err := nodeGoesOn(tx, record); err != nil {
			return err
		} else if still {
			continue
		}
		whole, err := tx.Incident(record.Incident.GetIncidentId())
		if err != nil {
			return err
		}
		if !allOver(whole.GetFindings(), standing) {
			continue
		}
		for _, f := range whole.GetFindings() {
			if err := e.judge(tx, f, event.GetStep().GetStep()); err != nil {
				return fmt.Errorf("judge checkpoints: %w", err)
			}
		}
		reason := fmt.Sprintf("At step %d it is seen no more.", event.GetStep().GetStep())
		if err := e.resolve(ctx, tx, event.GetTime().AsTime(), record, reason, ""); err != nil {
			return fmt.Errorf("end incident %s: %w", record.Incident.GetIncidentId(), err)
		}
	}
	return nil
}

// allOver tells whether the problems of findings are over.
func allOver(findings []*controlv1.Finding, standing detect.Standing) bool {
	some := false
	for _, f := range findings {
		if lasting(f.GetKind()) || slices.Contains(standing.Open, f.GetKind()) {
			return false
		}
		some = some || slices.Contains(standing.Over, f.GetKind())
	}
	return some
}
