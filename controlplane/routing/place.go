package routing

import (
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/alerting/match"
	"github.com/vigil-ml/vigil/alerting/route"
	"github.com/vigil-ml/vigil/controlplane/store"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// MutedBy names the time intervals for which a route tells nothing at a time.
func (r *Router) MutedBy(to *route.Route, now time.Time) []string {
	return r.plan.Intervals.MutedBy(to, now)
}

// allMutedBy names the time intervals for which none of the routes of an alert
// tells anything; none while one of them does, or when it goes to nobody.
func (r *Router) allMutedBy(labels map[string]string, now time.Time) []string {
	var names []string
	for _, to := range r.plan.Tree.Match(labels) {
		if len(to.Receivers) == 0 {
			continue
		}
		by := r.MutedBy(to, now)
		if len(by) == 0 {
			return nil
		}
		for _, name := range by {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// Place gives the groups in which an incident is told, with when each was told
// last and is looked at next.
func (r *Router) Place(tx *store.Tx, incidentID string, now time.Time) ([]*controlv1.AlertGroup, error) {
	groups, err := tx.GroupsOf(incidentID)
	if err != nil {
		return nil, err
	}
	var all []*controlv1.AlertGroup
	for _, g := range groups {
		count, err := tx.CountMembers(g.ID)
		if err != nil {
			return nil, err
		}
		one := &controlv1.AlertGroup{Receiver: g.Receiver, Key: g.Route + ":" + route.LabelText(g.Labels), Alerts: int32(count.Open)}
		if to := r.routeOf(g.Route); to != nil && g.Route != stormRoute {
			one.Key, one.MutedBy = to.GroupKey(g.Labels), r.MutedBy(to, now)
		}
		if !g.Told.IsZero() {
			one.Told = timestamppb.New(g.Told)
		}
		if !g.Due.IsZero() && g.Due.Before(now.Add(never/2)) {
			one.Due = timestamppb.New(g.Due)
		}
		all = append(all, one)
	}
	return all, nil
}

// Matched gives the open alerts that a silence matches, whether or not it holds
// now: at most as many as one notification has.
func (r *Router) Matched(tx *store.Tx, s *controlv1.Silence, now time.Time) ([]*controlv1.Alert, error) {
	ms, err := match.Of(s.GetMatchers())
	if err != nil {
		return nil, err
	}
	open, err := tx.AllOpen(0)
	if err != nil {
		return nil, err
	}
	var all []*controlv1.Alert
	for _, record := range open {
		if len(all) == alertsTold {
			break
		}
		labels, err := r.labels(tx, record.Incident)
		if err != nil {
			return nil, err
		}
		if !ms.Match(labels) {
			continue
		}
		a, err := r.Describe(tx, record, now)
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, nil
}
