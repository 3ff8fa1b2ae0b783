package routing

import (
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/alerting/route"
	"github.com/vigil-ml/vigil/controlplane/store"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Describe gives an incident as an alert, as it is now: labels, receivers, and what keeps it
// quiet.
func (r *Router) Describe(tx *store.Tx, record store.IncidentRecord, now time.Time) (*controlv1.Alert, error) {
	labels, err := r.labels(tx, record.Incident)
	if err != nil {
		return nil, err
	}
	a := snapshot(record, labels)
	if a.Ends == nil && !record.Expires.IsZero() {
		a.Ends = timestamppb.New(record.Expires)
	}
	a.Updated = timestamppb.New(later(record.Changed, a.GetStarts().AsTime()))
	a.Receivers = r.ReceiversOf(labels)
	a.MutedBy = r.allMutedBy(labels, now)
	a.SilencedBy, a.InhibitedBy, err = r.Mutes(tx, a.GetIncidentId(), labels, now)
	return a, err
}

// ReceiversOf gives the receivers to which an alert with some labels goes.
func (r *Router) ReceiversOf(labels map[string]string) []string {
	var all []string
	for _, to := range r.plan.Tree.Match(labels) {
		for _, receiver := range to.Receivers {
			if !slices.Contains(all, receiver) {
				all = append(all, receiver)
			}
		}
	}
	return all
}

// Config gives who is told of what as an alertmanager.yml says it.
func (r *Router) Config() (string, error) { return r.plan.Alertmanager() }

// Explain gives the way of an alert with some labels through the tree.
func (r *Router) Explain(labels map[string]string) []route.Step { return r.plan.Tree.Explain(labels) }

// Receivers gives the names of all receivers, sorted.
func (r *Router) Receivers() []string {
	var all []string
	for name := range r.plan.SendResolved {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// Groups gives every group with the alerts in it, for a look at all of them;
// what escalation and storms made is left out.
func (r *Router) Groups(tx *store.Tx, now time.Time) ([]Group, error) {
	all, err := tx.AlertGroups()
	if err != nil {
		return nil, err
	}
	var groups []Group
	for _, g := range all {
		if strings.HasPrefix(g.Route, escalationPrefix) || g.Route == stormRoute {
			continue
		}
		members, err := tx.AlertMembers(g.ID)
		if err != nil {
			return nil, err
		}
		group := Group{Labels: g.Labels, Receiver: g.Receiver}
		if to := r.routeOf(g.Route); to != nil {
			group.MutedBy = r.MutedBy(to, now)
		}
		for _, m := range members {
			record, err := tx.IncidentRecord(m.IncidentID)
			if err != nil {
				return nil, err
			}
			a, err := r.Describe(tx, record, now)
			if err != nil {
				return nil, err
			}
			group.Alerts = append(group.Alerts, a)
		}
		sortAlerts(group.Alerts)
		groups = append(groups, group)
	}
	return groups, nil
}

// Group is alerts that one receiver is told of together.
type Group struct {
	Labels   map[string]string
	Receiver string
	Alerts   []*controlv1.Alert
	// MutedBy names the time intervals for which the group is not told now.
	MutedBy []string
}
