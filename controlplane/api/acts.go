package api

import (
	"context"

	"github.com/vigil-ml/vigil/controlplane/incident"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Incidents takes what people do about incidents; the incident engine does. Each
// method writes into the transaction.
type Incidents interface {
	// Acknowledge says that a person has taken an incident.
	Acknowledge(ctx context.Context, tx *store.Tx, act incident.Act) error
	// Resolve ends it.
	Resolve(ctx context.Context, tx *store.Tx, act incident.Act) error
	// Reopen has it fire again.
	Reopen(ctx context.Context, tx *store.Tx, act incident.Act) error
	// Note writes into its timeline.
	Note(ctx context.Context, tx *store.Tx, act incident.Act) error
}

// AcknowledgeIncident says that a person has taken an incident.
func (s *incidents) AcknowledgeIncident(ctx context.Context, in *controlv1.AcknowledgeIncidentRequest) (*controlv1.AcknowledgeIncidentResponse, error) {
	out, err := s.act(ctx, s.acts.Acknowledge, incident.Act{IncidentID: in.IncidentId, Author: in.Author, Comment: in.Comment})
	if err != nil {
		return nil, err
	}
	return &controlv1.AcknowledgeIncidentResponse{Incident: out}, nil
}

// ResolveIncident ends an incident.
func (s *incidents) ResolveIncident(ctx context.Context, in *controlv1.ResolveIncidentRequest) (*controlv1.ResolveIncidentResponse, error) {
	out, err := s.act(ctx, s.acts.Resolve, incident.Act{IncidentID: in.IncidentId, Author: in.Author, Comment: in.Comment})
	if err != nil {
		return nil, err
	}
	return &controlv1.ResolveIncidentResponse{Incident: out}, nil
}

// ReopenIncident has an incident fire again.
func (s *incidents) ReopenIncident(ctx context.Context, in *controlv1.ReopenIncidentRequest) (*controlv1.ReopenIncidentResponse, error) {
	out, err := s.act(ctx, s.acts.Reopen, incident.Act{IncidentID: in.IncidentId, Author: in.Author, Comment: in.Comment})
	if err != nil {
		return nil, err
	}
	return &controlv1.ReopenIncidentResponse{Incident: out}, nil
}

// AddNote writes into an incident's timeline.
func (s *incidents) AddNote(ctx context.Context, in *controlv1.AddNoteRequest) (*controlv1.AddNoteResponse, error) {
	out, err := s.act(ctx, s.acts.Note, incident.Act{IncidentID: in.IncidentId, Author: in.Author, Comment: in.Text})
	if err != nil {
		return nil, err
	}
	return &controlv1.AddNoteResponse{Incident: out}, nil
}

// textMost is how long what a person writes may be.
const textMost = 4096

func (s *incidents) act(ctx context.Context, do func(context.Context, *store.Tx, incident.Act) error, act incident.Act) (out *controlv1.Incident, err error) {
	if err := required("incident_id", act.IncidentID, hintIncidents); err != nil {
		return nil, err
	}
	if len(act.Comment) > textMost || len(act.Author) > 256 {
		return nil, fault.New(fault.Invalid, "comment has %d bytes; at most %d", len(act.Comment), textMost)
	}
	err = s.store.Update(ctx, func(tx *store.Tx) (err error) {
		if err = do(ctx, tx, act); err != nil {
			return err
		}
		out, err = tx.Incident(act.IncidentID)
		return err
	})
	if fault.Is(err, fault.NotFound) {
		return nil, fault.WithHint(fault.New(fault.NotFound, "there is no incident %q", act.IncidentID), hintIncidents)
	}
	return out, err
}
