package incident

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/vigil-ml/vigil/controlplane/store"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// againWithin is for how long after its end, in the time of the events, an
// incident's problem that is met once more is the same one come back.
const againWithin = 10 * time.Minute

// reopened is the action of the timeline's entry when a problem that was over
// came again.
const reopened = "reopened"

// cameAgain gives the incident whose problem a finding shows once more: one of
// the open ones, from an earlier attempt, or one that was resolved a moment
// ago. The problem is the same when it is of the same kind and began at the
// same step, or when it is of a kind that comes and goes and was just over.
func cameAgain(tx *store.Tx, f *controlv1.Finding, open []store.IncidentRecord) (store.IncidentRecord, bool, error) {
	at := f.GetEventTime().AsTime()
	over, err := tx.ResolvedSince(f.GetRunId(), at.Add(-againWithin))
	if err != nil {
		return store.IncidentRecord{}, false, err
	}
	for _, record := range slices.Concat(open, over) {
		later := f.GetAttempt() > record.Attempt
		// A run that was started anew may count its attempts from 0; late word
		// of an attempt from before the end is nothing new.
		afresh := record.Incident.GetState() == resolved && at.After(record.ResolvedEvent)
		if !later && !afresh {
			continue
		}
		// What comes and goes is one problem, wherever it begins.
		if record.Incident.GetState() == resolved && record.Incident.GetKind() == f.GetKind() && !lasting(f.GetKind()) {
			return record, true, nil
		}
		same, err := tx.HasFinding(record.Incident.GetIncidentId(), f.GetKind(), f.GetOnsetStep())
		if err != nil || same {
			return record, same, err
		}
	}
	return store.IncidentRecord{}, false, nil
}

// again makes a finding part of the incident whose problem came again with it.
// It is answered anew. Who was told that the problem is over is told once that
// it is not; of an incident that is open everybody knows already.
func (e *Engine) again(ctx context.Context, tx *store.Tx, event *commonv1.Event, f *controlv1.Finding, record store.IncidentRecord) error {
	i, action := record.Incident, "finding"
	id := i.GetIncidentId()
	tell := f.GetSeverity() > i.GetSeverity()
	if i.GetState() == resolved {
		action, tell = reopened, true
		e.reopen(&record)
	}
	record.Expires = e.expiry(e.deps.Clock())
	i.Severity = max(i.GetSeverity(), f.GetSeverity())
	record.Attempt, record.Latest = f.GetAttempt(), f.GetFindingId()
	record.OnsetStep = max(record.OnsetStep, f.GetOnsetStep())
	record.Findings++
	record.Occurrences++
	if err := tx.AttachFinding(id, f.GetFindingId()); err != nil {
		return err
	}
	text := fmt.Sprintf("It came again, in attempt %d, for the %s time: %s", f.GetAttempt(), ordinal(record.Occurrences), f.GetSummary())
	if err := e.happened(tx, id, e.deps.Clock(), action, text, ""); err != nil {
		return err
	}
	answer, err := e.answer(ctx, tx, event, f, record)
	if err != nil {
		return err
	}
	if i.Summary, err = summary(tx, f, answer); err != nil {
		return err
	}
	if err := tx.PutIncident(record); err != nil || !tell {
		return err
	}
	return e.deps.Router.Alert(ctx, tx, record)
}

// reopen has a record fire again. How often it does in a row is counted, by
// which who is told is spared an incident that comes and goes.
func (e *Engine) reopen(record *store.IncidentRecord) {
	now := e.deps.Clock()
	if now.Sub(record.Changed) > againWithin {
		record.Reopened = 0
	}
	record.Reopened++
	record.Changed = now
	record.Incident.State, record.Incident.Resolved, record.Incident.AcknowledgedBy = firing, nil, ""
}

// ordinal is a count as a word of a sentence: 2nd, 3rd, 11th.
func ordinal(n int64) string {
	suffix := "th"
	if n%100 < 11 || n%100 > 13 {
		switch n % 10 {
		case 1:
			suffix = "st"
		case 2:
			suffix = "nd"
		case 3:
			suffix = "rd"
		}
	}
	return fmt.Sprint(n, suffix)
}
