package api

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vigil-ml/vigil/alerting/match"
	"github.com/vigil-ml/vigil/alerting/route"
	"github.com/vigil-ml/vigil/controlplane/routing"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Shower shows who is told of what; it is routing's.
type Shower interface {
	// Describe gives an incident as an alert.
	Describe(tx *store.Tx, record store.IncidentRecord, now time.Time) (*controlv1.Alert, error)
	// Place gives the groups in which an incident is told.
	Place(tx *store.Tx, incidentID string, now time.Time) ([]*controlv1.AlertGroup, error)
	// Explain gives the way of an alert through the routing tree.
	Explain(labels map[string]string) []route.Step
	// Mutes gives what keeps an alert from being told.
	Mutes(tx *store.Tx, incidentID string, labels map[string]string, now time.Time) (silencedBy, inhibitedBy []string, err error)
	// MutedBy names the time intervals for which a route tells nothing.
	MutedBy(to *route.Route, now time.Time) []string
}

// Router decides who is told; it is routing's.
type Router interface {
	Shower
	Silencer
}

// alerts is the AlertService.
type alerts struct {
	controlv1.UnimplementedAlertServiceServer
	store  *store.Store
	router Shower
	clock  func() time.Time
}

// alertsLooked is among how many of the newest open incidents those are looked
// for that match.
const alertsLooked = 20000

// ListAlerts lists the incidents that are not over as alerts, the newest first.
func (s *alerts) ListAlerts(ctx context.Context, in *controlv1.ListAlertsRequest) (*controlv1.ListAlertsResponse, error) {
	limit, err := limitOf(in.Limit)
	if err != nil {
		return nil, err
	}
	matchers, err := match.Parse(in.Matchers...)
	if err != nil {
		return nil, err
	}
	out := &controlv1.ListAlertsResponse{}
	err = s.store.View(ctx, func(tx *store.Tx) error {
		look := maxLimit
		if len(matchers) > 0 || in.Receiver != "" {
			look = alertsLooked // those that match may be far down
		}
		open, err := tx.AllOpen(look)
		if err != nil {
			return err
		}
		for _, record := range open {
			if len(out.Alerts) == limit {
				break
			}
			alert, err := s.router.Describe(tx, record, s.clock())
			if err != nil {
				return err
			}
			if matchers.Match(alert.GetLabels()) &&
				(in.Receiver == "" || slices.Contains(alert.GetReceivers(), in.Receiver)) {
				out.Alerts = append(out.Alerts, alert)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// GetAlert shows one incident as an alert: its groups, who was told when, and
// what keeps it from being told.
func (s *alerts) GetAlert(ctx context.Context, in *controlv1.GetAlertRequest) (*controlv1.GetAlertResponse, error) {
	if err := required("incident_id", in.IncidentId, hintIncidents); err != nil {
		return nil, err
	}
	now, out := s.clock(), &controlv1.GetAlertResponse{}
	err := s.store.View(ctx, func(tx *store.Tx) error {
		record, err := tx.IncidentRecord(in.IncidentId)
		if err != nil {
			return err
		}
		if out.Alert, err = s.router.Describe(tx, record, now); err != nil {
			return err
		}
		if out.Groups, err = s.router.Place(tx, in.IncidentId, now); err != nil {
			return err
		}
		for _, id := range out.Alert.GetSilencedBy() {
			silence, err := tx.Silence(id)
			if err != nil {
				return err
			}
			out.Silences = append(out.Silences, routing.WithState(silence, now))
		}
		return nil
	})
	if fault.Is(err, fault.NotFound) {
		return nil, fault.WithHint(fault.New(fault.NotFound, "there is no incident %q", in.IncidentId), hintIncidents)
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// TestRoutes says where an alert with some labels would go, and why.
func (s *alerts) TestRoutes(ctx context.Context, in *controlv1.TestRoutesRequest) (*controlv1.TestRoutesResponse, error) {
	if len(in.Labels) == 0 {
		return nil, fault.New(fault.Invalid, "labels is empty: want at least one label")
	}
	now, out := s.clock(), &controlv1.TestRoutesResponse{}
	for _, step := range s.router.Explain(in.Labels) {
		out.Steps = append(out.Steps, stepsOf(step, in.Labels, s.router.MutedBy(step.Route, now))...)
		if step.Chosen {
			out.Receivers = append(out.Receivers, step.Route.Receivers...)
		}
	}
	err := s.store.View(ctx, func(tx *store.Tx) (err error) {
		out.SilencedBy, out.InhibitedBy, err = s.router.Mutes(tx, "", in.Labels, now)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// stepsOf is a node once for each of its receivers.
func stepsOf(step route.Step, labels map[string]string, mutedBy []string) []*controlv1.RouteStep {
	r := step.Route
	one := &controlv1.RouteStep{
		Route: r.ID, Depth: int32(step.Depth), Matchers: r.Matchers.Texts(), Matched: step.Matched, Chosen: step.Chosen,
		Why: step.Why, GroupWait: durationpb.New(r.Wait), GroupInterval: durationpb.New(r.Interval), RepeatInterval: durationpb.New(r.Repeat),
	}
	if !step.Chosen || len(r.Receivers) == 0 {
		return []*controlv1.RouteStep{one}
	}
	one.Group, one.MutedBy = r.GroupKey(r.GroupLabels(labels)), mutedBy
	var all []*controlv1.RouteStep
	for _, receiver := range r.Receivers {
		copied := proto.CloneOf(one)
		copied.Receiver = receiver
		all = append(all, copied)
	}
	return all
}

// WatchIncidents streams an incident each time that it changes, the open ones
// first.
func (s *alerts) WatchIncidents(in *controlv1.WatchIncidentsRequest, out grpc.ServerStreamingServer[controlv1.WatchIncidentsResponse]) error {
	known := map[string]int{} // timeline entries sent, by incident
	for first := true; ; first = false {
		changed := s.store.Changed(store.TopicIncidents)
		news, err := s.news(out.Context(), in.RunId, known, first)
		if err != nil {
			return err
		}
		for _, incident := range news {
			if err := out.Send(&controlv1.WatchIncidentsResponse{Incident: incident}); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-out.Context().Done():
			return out.Context().Err()
		}
		// Changes come in bursts; what comes together is sent together.
		select {
		case <-time.After(watchPause):
		case <-out.Context().Done():
			return out.Context().Err()
		}
	}
}

const (
	// watched is how many of the newest incidents a watcher sees.
	watched = 200
	// watchPause is the least time between two looks for a watcher.
	watchPause = 50 * time.Millisecond
)

// news gives the incidents whose timeline grew, the oldest first, with what is
// new of it. The first time it gives those that are open.
func (s *alerts) news(ctx context.Context, runID string, known map[string]int, first bool) (news []*controlv1.Incident, err error) {
	err = s.store.View(ctx, func(tx *store.Tx) error {
		listed, err := tx.Incidents(runID, watched)
		if err != nil {
			return err
		}
		for n := len(listed) - 1; n >= 0; n-- {
			id := listed[n].GetIncidentId()
			whole, err := tx.Incident(id)
			if err != nil {
				return err
			}
			had, total := known[id], len(whole.GetTimeline())
			known[id] = total
			open := whole.GetState() != controlv1.IncidentState_INCIDENT_STATE_RESOLVED
			if total <= had || (first && !open) {
				continue
			}
			whole.Timeline, whole.Findings, whole.Notifications = whole.GetTimeline()[had:], nil, nil
			news = append(news, whole)
		}
		return nil
	})
	return news, err
}
