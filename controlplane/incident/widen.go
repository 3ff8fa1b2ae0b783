package incident

import (
	"fmt"
	"slices"

	"github.com/vigil-ml/vigil/controlplane/store"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Widen takes in that a problem of a node hits runs that the finding, as it is
// stored, does not name: the partitions of two runs on one node see the same
// problem, and the first one opened its incident. What the finding explains has
// by then an incident of its own, whose timeline gets the cause.
func (e *Engine) Widen(tx *store.Tx, f *controlv1.Finding) error {
	kept, err := tx.Finding(f.GetFindingId())
	if err != nil {
		return err
	}
	stored := kept.GetFinding()
	news := slices.DeleteFunc(slices.Clone(f.GetAffectedRuns()), func(run string) bool {
		return slices.Contains(stored.GetAffectedRuns(), run)
	})
	explains := slices.DeleteFunc(slices.Clone(f.GetExplains()), func(id string) bool {
		return slices.Contains(stored.GetExplains(), id)
	})
	if len(news)+len(explains) == 0 {
		return nil
	}
	stored.AffectedRuns = append(stored.AffectedRuns, news...)
	stored.Explains = append(stored.Explains, explains...)
	if err := tx.ChangeFinding(stored); err != nil {
		return err
	}
	record, ok, err := tx.IncidentOf(f.GetFindingId())
	if err != nil || !ok || record.Incident.GetState() == resolved {
		return err
	}
	for _, run := range news {
		affect(record.Incident, run)
	}
	if err := tx.PutIncident(record); err != nil {
		return err
	}
	for _, id := range explains {
		if err := e.explained(tx, f, record.Incident.GetIncidentId(), id); err != nil {
			return err
		}
	}
	return nil
}

// explained notes in the incident of a run's finding which problem of a node is
// its cause.
func (e *Engine) explained(tx *store.Tx, f *controlv1.Finding, incidentID, findingID string) error {
	symptom, ok, err := tx.IncidentOf(findingID)
	if err != nil || !ok || symptom.Incident.GetState() == resolved || symptom.Incident.GetIncidentId() == incidentID {
		return err
	}
	return e.happened(tx, symptom.Incident.GetIncidentId(), e.deps.Clock(), "cause",
		fmt.Sprintf("%s It is the cause: see incident %s.", f.GetSummary(), incidentID), "")
}
