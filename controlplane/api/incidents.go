package api

import (
	"context"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const hintIncidents = "agentctl get incidents lists the incidents"

// incidents is the IncidentService.
type incidents struct {
	controlv1.UnimplementedIncidentServiceServer
	store *store.Store
	acts  Incidents
}

// ListIncidents lists incidents, the newest first, without findings and
// timeline.
func (s *incidents) ListIncidents(ctx context.Context, in *controlv1.ListIncidentsRequest) (*controlv1.ListIncidentsResponse, error) {
	limit, err := limitOf(in.Limit)
	if err != nil {
		return nil, err
	}
	out := &controlv1.ListIncidentsResponse{}
	err = s.store.View(ctx, func(tx *store.Tx) (err error) {
		if err := known(tx, in.RunId); err != nil {
			return err
		}
		out.Incidents, err = tx.Incidents(in.RunId, limit)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// GetIncident shows one incident with findings, timeline and notifications.
func (s *incidents) GetIncident(ctx context.Context, in *controlv1.GetIncidentRequest) (*controlv1.GetIncidentResponse, error) {
	if err := required("incident_id", in.IncidentId, hintIncidents); err != nil {
		return nil, err
	}
	out := &controlv1.GetIncidentResponse{}
	err := s.store.View(ctx, func(tx *store.Tx) (err error) {
		out.Incident, err = tx.Incident(in.IncidentId)
		return err
	})
	if fault.Is(err, fault.NotFound) {
		return nil, fault.WithHint(fault.New(fault.NotFound, "there is no incident %q", in.IncidentId), hintIncidents)
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}
