package incident

import (
	"context"
	"fmt"

	"github.com/vigil-ml/vigil/controlplane/store"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// hang is the kind whose problem is over with the next step of the rank that
// stood still, in the same attempt too.
const hang = "hang"

// goesOn tells whether a step ends the incident of a hang, and why: the rank
// that stood still has made a step. A hang that comes again opens another
// incident, since it begins at another step. With findings of other kinds in
// it the incident waits for what ends those.
func (e *Engine) goesOn(tx *store.Tx, event *commonv1.Event, s *commonv1.StepReport, record store.IncidentRecord) (string, error) {
	if event.GetAttempt() != record.Attempt || s.GetStep() <= record.OnsetStep {
		return "", nil
	}
	i, err := tx.Incident(record.Incident.GetIncidentId())
	if err != nil {
		return "", err
	}
	for _, finding := range i.GetFindings() {
		if finding.GetKind() != hang {
			return "", nil
		}
	}
	if i.GetFindings()[0].GetRank() != event.GetRank() {
		return "", nil
	}
	return fmt.Sprintf("Rank %d finished step %d.", event.GetRank(), s.GetStep()), nil
}

// resumeHangs resolves the hangs that a step of any rank shows to be over.
func (e *Engine) resumeHangs(ctx context.Context, tx *store.Tx, event *commonv1.Event, s *commonv1.StepReport) error {
	open, err := tx.OpenOfKind(event.GetRunId(), hang)
	if err != nil {
		return err
	}
	for _, record := range open {
		reason, err := e.goesOn(tx, event, s, record)
		if err != nil {
			return err
		}
		if reason == "" {
			continue
		}
		if err := e.resolve(ctx, tx, event, record, reason); err != nil {
			return err
		}
	}
	return nil
}
