package incident

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Act is what a person, or a program for one, does about an incident.
type Act struct {
	IncidentID string
	Author     string // who; must not be empty
	Comment    string // why; may be empty
}

// noteBy is note by an author; empty stands for Vigil itself.
func noteBy(tx *store.Tx, id string, at time.Time, action, text, author string) error {
	return tx.AddTimeline(id, &controlv1.TimelineEntry{Time: timestamppb.New(at), Action: action, Text: text, Author: author})
}

// sentence is what the timeline tells of an act: "ada took it: on my way."
func (a Act) sentence(did string) string {
	if a.Comment == "" {
		return a.Author + " " + did + "."
	}
	return fmt.Sprintf("%s %s: %s", a.Author, did, a.Comment)
}

// begin checks an act and gives its incident.
func (a Act) begin(tx *store.Tx) (store.IncidentRecord, error) {
	if a.Author == "" {
		return store.IncidentRecord{}, fault.New(fault.Invalid, "author is empty: say who does it")
	}
	return tx.IncidentRecord(a.IncidentID)
}

// Acknowledge says that a person has taken an incident. It is told and not
// repeated any more, and escalation ends. One that is over gives
// [fault.Precondition]; to take it twice changes nothing.
func (e *Engine) Acknowledge(ctx context.Context, tx *store.Tx, act Act) error {
	record, err := act.begin(tx)
	if err != nil {
		return err
	}
	switch record.Incident.GetState() {
	case resolved:
		return fault.WithHint(fault.New(fault.Precondition, "incident %s is over", act.IncidentID),
			"agentctl incidents reopen has it fire again")
	case acknowledged:
		if record.Incident.GetAcknowledgedBy() == act.Author && act.Comment == "" {
			return nil
		}
	}
	record.Incident.State, record.Incident.AcknowledgedBy = acknowledged, act.Author
	if err := noteBy(tx, act.IncidentID, e.deps.Clock(), "acknowledged", act.sentence("took it"), act.Author); err != nil {
		return err
	}
	if err := tx.PutIncident(record); err != nil {
		return err
	}
	return e.deps.Router.Alert(ctx, tx, record)
}

// Resolve ends an incident by a person's word; one that is over stays as it is.
func (e *Engine) Resolve(ctx context.Context, tx *store.Tx, act Act) error {
	record, err := act.begin(tx)
	if err != nil || record.Incident.GetState() == resolved {
		return err
	}
	return e.resolve(ctx, tx, e.deps.Clock(), record, act.sentence("resolved it"), act.Author)
}

// Reopen has an incident fire again that is over or acknowledged.
func (e *Engine) Reopen(ctx context.Context, tx *store.Tx, act Act) error {
	record, err := act.begin(tx)
	if err != nil || record.Incident.GetState() == firing {
		return err
	}
	wasOver := record.Incident.GetState() == resolved
	record.Incident.State, record.Incident.Resolved, record.Incident.AcknowledgedBy = firing, nil, ""
	if wasOver { // a person's word is no flapping
		record.Changed, record.Expires, record.ResolvedEvent = e.deps.Clock(), e.expiry(e.deps.Clock()), time.Time{}
	}
	if err := noteBy(tx, act.IncidentID, e.deps.Clock(), reopened, act.sentence("reopened it"), act.Author); err != nil {
		return err
	}
	if err := tx.PutIncident(record); err != nil {
		return err
	}
	return e.deps.Router.Alert(ctx, tx, record)
}

// Note writes a person's words into an incident's timeline.
func (e *Engine) Note(_ context.Context, tx *store.Tx, act Act) error {
	if _, err := act.begin(tx); err != nil {
		return err
	}
	if act.Comment == "" {
		return fault.New(fault.Invalid, "text is empty: say what to note")
	}
	return e.happened(tx, act.IncidentID, e.deps.Clock(), "note", act.Comment, act.Author)
}
