package api

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vigil-ml/vigil/alerting/match"
	"github.com/vigil-ml/vigil/alerting/route"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// alerts is the AlertService.
type alerts struct {
	controlv1.UnimplementedAlertServiceServer
	store  *store.Store
	router Router
	clock  func() time.Time
}

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
		open, err := tx.AllOpen(maxLimit)
		if err != nil {
			return err
		}
		for _, record := range open {
			alert, err := s.router.Describe(tx, record, s.clock())
			if err != nil {
				return err
			}
			if matchers.Match(alert.GetLabels()) && len(out.Alerts) < limit {
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

// TestRoutes says where an alert with some labels would go, and why.
func (s *alerts) TestRoutes(ctx context.Context, in *controlv1.TestRoutesRequest) (*controlv1.TestRoutesResponse, error) {
	if len(in.Labels) == 0 {
		return nil, fault.New(fault.Invalid, "labels is empty: want at least one label")
	}
	out := &controlv1.TestRoutesResponse{}
	for _, step := range s.router.Explain(in.Labels) {
		out.Steps = append(out.Steps, stepsOf(step, in.Labels)...)
		if step.Chosen {
			out.Receivers = append(out.Receivers, step.Route.Receivers...)
		}
	}
	err := s.store.View(ctx, func(tx *store.Tx) (err error) {
		out.SilencedBy, _, err = s.router.Mutes(tx, "", in.Labels, s.clock())
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// stepsOf is a node once for each of its receivers.
func stepsOf(step route.Step, labels map[string]string) []*controlv1.RouteStep {
	r := step.Route
	one := &controlv1.RouteStep{
		Route: r.ID, Depth: int32(step.Depth), Matchers: r.Matchers.Texts(), Matched: step.Matched, Chosen: step.Chosen,
		Why: step.Why, GroupWait: durationpb.New(r.Wait), GroupInterval: durationpb.New(r.Interval), RepeatInterval: durationpb.New(r.Repeat),
	}
	if !step.Chosen || len(r.Receivers) == 0 {
		return []*controlv1.RouteStep{one}
	}
	one.Group = r.GroupKey(r.GroupLabels(labels))
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
