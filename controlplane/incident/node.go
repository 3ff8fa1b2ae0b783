package incident

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// maxAffected bounds the runs that an incident names.
const maxAffected = 32

// takeNode makes a node's finding part of the incident of a run whose symptom it
// explains, or of the open incident of the same part of the node, or opens one.
// What is only worth knowing opens none.
func (e *Engine) takeNode(ctx context.Context, tx *store.Tx, f *controlv1.Finding) error {
	for _, id := range f.GetExplains() {
		record, ok, err := tx.IncidentOf(id)
		if err != nil {
			return err
		}
		if ok && record.Incident.GetState() != resolved {
			return e.explain(ctx, tx, f, record)
		}
	}
	open, err := tx.OpenNodeIncidents(f.GetNode())
	if err != nil {
		return err
	}
	for _, record := range open {
		cause, err := tx.Cause(record.Incident.GetIncidentId())
		if err != nil {
			return err
		}
		if samePart(cause, f) {
			return e.joinNode(ctx, tx, f, record)
		}
	}
	if f.GetSeverity() <= commonv1.Severity_SEVERITY_INFO {
		return nil
	}
	return e.openNode(ctx, tx, f)
}

// samePart tells whether two findings of a node are of one GPU, or of another
// part of one name.
func samePart(a, b *controlv1.Finding) bool {
	if a.Gpu != nil && b.Gpu != nil {
		return a.GetGpu() == b.GetGpu()
	}
	return a.GetDevice() != "" && a.GetDevice() == b.GetDevice()
}

func (e *Engine) openNode(ctx context.Context, tx *store.Tx, f *controlv1.Finding) error {
	now := e.deps.Clock()
	record := store.IncidentRecord{
		Findings: 1, Occurrences: 1, Latest: f.GetFindingId(), Changed: now, Expires: e.expiry(now),
		Incident: &controlv1.Incident{
			IncidentId: ID(f.GetFindingId()), Kind: f.GetKind(), Severity: f.GetSeverity(), State: firing,
			Opened: timestamppb.New(now), Node: f.GetNode(),
			AffectedRuns: slices.Clone(f.GetAffectedRuns()[:min(maxAffected, len(f.GetAffectedRuns()))]),
		},
	}
	i := record.Incident
	i.Summary = nodeSummary(f, i.GetAffectedRuns())
	if err := note(tx, i.GetIncidentId(), now, "opened", f.GetSummary()); err != nil {
		return err
	}
	if err := tx.PutIncident(record); err != nil {
		return err
	}
	if err := tx.AttachFinding(i.GetIncidentId(), f.GetFindingId()); err != nil {
		return err
	}
	return e.deps.Router.Alert(ctx, tx, record)
}

// joinNode makes a finding part of the open incident of its part of the node.
func (e *Engine) joinNode(ctx context.Context, tx *store.Tx, f *controlv1.Finding, record store.IncidentRecord) error {
	i := record.Incident
	worse, err := e.attach(tx, f, &record)
	if err != nil {
		return err
	}
	cause, err := tx.Cause(i.GetIncidentId())
	if err != nil {
		return err
	}
	if cause.GetFindingId() == f.GetFindingId() && i.GetRunId() == "" {
		i.Kind, i.Summary = f.GetKind(), nodeSummary(f, i.GetAffectedRuns())
	}
	if err := tx.PutIncident(record); err != nil || !worse {
		return err
	}
	return e.deps.Router.Alert(ctx, tx, record)
}

// explain makes an incident of a run the node's: the cause of what is known came
// to light. It is named first, and from here on the incident is over when both
// the node's problem and the run's are.
func (e *Engine) explain(ctx context.Context, tx *store.Tx, f *controlv1.Finding, record store.IncidentRecord) error {
	i := record.Incident
	worse, err := e.attach(tx, f, &record)
	if err != nil {
		return err
	}
	if i.GetNode() == "" {
		i.Node, i.Kind = f.GetNode(), f.GetKind()
		i.Summary = f.GetSummary() + " It explains what came before: " + i.GetSummary()
	}
	affect(i, i.GetRunId())
	if err := tx.PutIncident(record); err != nil || !worse {
		return err
	}
	return e.deps.Router.Alert(ctx, tx, record)
}

// hit makes a run's finding part of the incident of the node's problem that is
// its cause; false when that has no open one.
func (e *Engine) hit(ctx context.Context, tx *store.Tx, event *commonv1.Event, f *controlv1.Finding) (bool, error) {
	record, ok, err := tx.IncidentOf(f.GetCause().GetFindingId())
	if err != nil || !ok || record.Incident.GetState() == resolved {
		return false, err
	}
	i := record.Incident
	worse, err := e.attach(tx, f, &record)
	if err != nil {
		return false, err
	}
	affect(i, f.GetRunId())
	if i.GetRunId() == "" {
		i.RunId, record.Attempt, record.OnsetStep = f.GetRunId(), f.GetAttempt(), f.GetOnsetStep()
	} else if i.GetRunId() == f.GetRunId() {
		record.Attempt, record.OnsetStep = max(record.Attempt, f.GetAttempt()), max(record.OnsetStep, f.GetOnsetStep())
	}
	own := record
	own.Latest = f.GetFindingId() // each run is saved by itself
	answer, err := e.answer(ctx, tx, event, f, own)
	if err != nil {
		return false, err
	}
	if i.Summary, err = summary(tx, f, answer); err != nil {
		return false, err
	}
	if err := tx.PutIncident(record); err != nil || !worse {
		return true, err
	}
	return true, e.deps.Router.Alert(ctx, tx, record)
}

// attach makes a finding part of an incident and tells whether that is worse
// than before.
func (e *Engine) attach(tx *store.Tx, f *controlv1.Finding, record *store.IncidentRecord) (worse bool, err error) {
	i := record.Incident
	worse = f.GetSeverity() > i.GetSeverity()
	i.Severity = max(i.GetSeverity(), f.GetSeverity())
	record.Findings++
	record.Expires = e.expiry(e.deps.Clock())
	if worse && i.GetState() == acknowledged {
		i.State = firing // who took it took something less
	}
	if text := another(record.Findings, f); text != "" {
		if err := e.happened(tx, i.GetIncidentId(), e.deps.Clock(), "finding", text, ""); err != nil {
			return false, err
		}
	}
	return worse, tx.AttachFinding(i.GetIncidentId(), f.GetFindingId())
}

func affect(i *controlv1.Incident, run string) {
	if run != "" && !slices.Contains(i.GetAffectedRuns(), run) && len(i.GetAffectedRuns()) < maxAffected {
		i.AffectedRuns = append(i.AffectedRuns, run)
	}
}

// nodeSummary is what a person reads of a node's problem that hit no run yet.
func nodeSummary(f *controlv1.Finding, runs []string) string {
	sentences := []string{f.GetSummary()}
	if f.GetEventTime() != nil {
		sentences = append(sentences, "Seen at "+f.GetEventTime().AsTime().UTC().Format(time.TimeOnly+" MST")+".")
	}
	switch len(runs) {
	case 0:
		sentences = append(sentences, "No run is known to train on it.")
	case 1:
		sentences = append(sentences, "Run "+runs[0]+" trains on it.")
	default:
		sentences = append(sentences, "Runs "+strings.Join(runs, ", ")+" train on it.")
	}
	return strings.Join(append(sentences, "Vigil changed nothing."), " ")
}

// Over takes in that problems of a node are over, by their last findings. An
// incident is resolved when all its problems are, and the run that it hit has
// got past it.
func (e *Engine) Over(ctx context.Context, tx *store.Tx, event *commonv1.Event, ended []*controlv1.Finding) error {
	for _, f := range ended {
		record, ok, err := tx.IncidentOf(f.GetFindingId())
		if err == nil && ok && record.Incident.GetState() != resolved && record.Incident.GetNode() != "" {
			err = e.problemOver(ctx, tx, event, f, record)
		}
		if err != nil {
			return fmt.Errorf("take the end of problem %s of node %s: %w", f.GetProblem(), f.GetNode(), err)
		}
	}
	return nil
}

func (e *Engine) problemOver(ctx context.Context, tx *store.Tx, event *commonv1.Event, f *controlv1.Finding, record store.IncidentRecord) error {
	still, err := tx.OpenProblems(record.Incident.GetIncidentId())
	if err != nil || still > 0 {
		return err
	}
	reason := fmt.Sprintf("The problem of node %s is over.", f.GetNode())
	past, err := runIsPast(tx, record)
	if err != nil {
		return err
	}
	if !past {
		return e.happened(tx, record.Incident.GetIncidentId(), e.deps.Clock(), "node", reason+" The run has not got past it yet.", "")
	}
	return e.resolve(ctx, tx, event.GetTime().AsTime(), record, reason, "")
}

// runIsPast tells whether the run that a node's incident hit is over it.
func runIsPast(tx *store.Tx, record store.IncidentRecord) (bool, error) {
	id := record.Incident.GetRunId()
	if id == "" {
		return true, nil
	}
	run, err := tx.Run(id)
	if fault.Is(err, fault.NotFound) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return run.GetEnded() != nil || (run.GetAttempt() > record.Attempt && run.GetStep() >= record.OnsetStep), nil
}

// nodeGoesOn tells whether an incident is a node's whose problem is not over.
func nodeGoesOn(tx *store.Tx, record store.IncidentRecord) (bool, error) {
	if record.Incident.GetNode() == "" {
		return false, nil
	}
	still, err := tx.OpenProblems(record.Incident.GetIncidentId())
	return still > 0, err
}
