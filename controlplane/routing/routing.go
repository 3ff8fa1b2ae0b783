// Package routing decides which receiver is told of which incidents, and when:
// the routing tree, groups, inhibition, silences, time intervals, escalation
// and the heartbeat, with Alertmanager's semantics. docs/alerting.md tells of
// them and of the differences.
//
// It has no state of its own. What was told to whom, and when each group is due
// next, is in the store and is written in the transaction that changed it; so a
// restart repeats nothing and forgets nothing, and a group that waits costs no
// memory. What is told goes into the outbox, from where alerting delivers it.
package routing

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/group"
	"github.com/vigil-ml/vigil/alerting/route"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/metric"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const (
	firing       = controlv1.IncidentState_INCIDENT_STATE_FIRING
	acknowledged = controlv1.IncidentState_INCIDENT_STATE_ACKNOWLEDGED
	resolved     = controlv1.IncidentState_INCIDENT_STATE_RESOLVED
)

// Flapping: from so many reopenings on, an incident's changes wait for
// flapWait, doubled each time up to flapMost, and what is then as it was told is
// not told.
const (
	flapsFrom = 3
	flapWait  = time.Minute
	flapMost  = 15 * time.Minute
)

// Deps is what a router needs.
type Deps struct {
	Plan  *route.Plan
	Store *store.Store
	Clock func() time.Time
	Log   *slog.Logger
	// Followers are the receivers that are told what happens to an incident
	// between its notifications.
	Followers []string
	// Metrics counts what is rolled up; nil counts nothing.
	Metrics prometheus.Registerer
}

// Router decides who is told. It is safe for concurrent use.
type Router struct {
	plan  *route.Plan
	deps  Deps
	mutes *silences
	tides *tides

	rolledUp *prometheus.CounterVec
}

// New makes a router.
func New(deps Deps) *Router {
	if deps.Metrics == nil {
		deps.Metrics = prometheus.NewRegistry()
	}
	return &Router{
		plan: deps.Plan, deps: deps, mutes: newSilences(), tides: newTides(deps.Plan.Storm),
		rolledUp: metric.NewCounter(deps.Metrics, metric.ControlRolledUp),
	}
}

// Alert takes in that incidents changed: each was opened, became worse, was
// acknowledged, reopened or resolved. It is called in the transaction that
// changed them, after they were put, and writes what is to be told at once into
// the outbox. What changed together inhibits before any of it is told.
func (r *Router) Alert(ctx context.Context, tx *store.Tx, records ...store.IncidentRecord) error {
	now := r.deps.Clock()
	leads := make([]lead, 0, len(records))
	var ids []string
	for _, record := range records {
		if isStorm(record.Incident) {
			continue
		}
		l, err := r.lead(tx, record, now)
		if err != nil {
			return err
		}
		for _, g := range l.to {
			ids = append(ids, g.ID)
		}
		leads = append(leads, l)
	}
	if err := tx.LookForGroups(ids...); err != nil {
		return err
	}
	for _, l := range leads {
		if err := r.follow(ctx, tx, l, now); err != nil {
			return fmt.Errorf("route incident %s: %w", l.record.Incident.GetIncidentId(), err)
		}
	}
	return nil
}

// lead is an incident and the groups that its labels lead to; none when it is
// over.
type lead struct {
	record store.IncidentRecord
	to     []store.AlertGroup
}

// lead notes what an incident inhibits and whom it escalates to, and gives where
// it leads.
func (r *Router) lead(tx *store.Tx, record store.IncidentRecord, now time.Time) (lead, error) {
	i := record.Incident
	labels, err := r.labels(tx, i)
	if err != nil {
		return lead{}, err
	}
	if err := r.inhibits(tx, i, labels); err != nil {
		return lead{}, err
	}
	if err := r.escalates(tx, i, labels, now); err != nil {
		return lead{}, err
	}
	if i.GetState() == resolved {
		return lead{record: record}, nil
	}
	return lead{record, r.groupsFor(labels)}, nil
}

// follow has an incident enter the groups that it leads to, and all of its
// groups looked at.
func (r *Router) follow(ctx context.Context, tx *store.Tx, l lead, now time.Time) error {
	id := l.record.Incident.GetIncidentId()
	groups, err := tx.GroupsOf(id)
	if err != nil {
		return err
	}
	if groups, err = r.enter(tx, id, l.to, groups); err != nil {
		return err
	}
	for _, g := range groups {
		if err := r.changed(ctx, tx, g, l.record, now); err != nil {
			return err
		}
	}
	return nil
}

// groupsFor gives the groups that labels lead to, as they would be if they were
// new.
func (r *Router) groupsFor(labels map[string]string) []store.AlertGroup {
	var all []store.AlertGroup
	for _, to := range r.plan.Tree.Match(labels) {
		for _, receiver := range to.Receivers {
			g := store.AlertGroup{Route: to.ID, Receiver: receiver, Labels: to.GroupLabels(labels)}
			g.ID = groupID(g)
			all = append(all, g)
		}
	}
	return all
}

// enter makes an incident a member of the groups that it leads to, and gives
// those beside the ones it was in.
func (r *Router) enter(tx *store.Tx, incidentID string, to, groups []store.AlertGroup) ([]store.AlertGroup, error) {
	for _, g := range to {
		known, found, err := tx.AlertGroup(g.ID)
		if err != nil {
			return nil, err
		}
		if found {
			g = known
		}
		joined, err := tx.JoinGroup(g.ID, incidentID)
		if err != nil {
			return nil, err
		}
		if joined {
			groups = append(groups, g)
		}
	}
	return groups, nil
}

// changed has a group looked at when its route says so, which may be now.
func (r *Router) changed(ctx context.Context, tx *store.Tx, g store.AlertGroup, record store.IncidentRecord, now time.Time) error {
	if g.Route == stormRoute {
		return nil // it is looked at by itself
	}
	to := r.routeOf(g.Route)
	if to == nil {
		return tx.DeleteAlertGroup(g.ID)
	}
	due := group.Due(to, g.Looked, now)
	if opened := record.Incident.GetOpened().AsTime(); g.Looked.IsZero() && opened.Add(to.Wait).Before(now) {
		due = now // it began so long ago that it need not wait for company
	}
	if wait := damping(record.Reopened); wait > 0 && !g.Told.IsZero() {
		due = later(due, g.Told.Add(wait))
	} else if to.Urgent && due.After(now) {
		v, err := r.view(tx, g, now)
		if err != nil {
			return err
		}
		if group.Urgent(v.members) {
			due = now
		}
	}
	if !g.Due.IsZero() && g.Due.Before(due) && damping(record.Reopened) == 0 {
		due = g.Due
	}
	if !due.After(now) {
		return r.look(ctx, tx, g, now)
	}
	g.Due = due
	return tx.PutAlertGroup(g)
}

// damping is how long the changes of an incident wait that was reopened so
// often.
func damping(reopened int64) time.Duration {
	if reopened < flapsFrom {
		return 0
	}
	return min(flapWait<<min(reopened-flapsFrom, 10), flapMost)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// labels gives what an incident is routed by.
func (r *Router) labels(tx *store.Tx, i *controlv1.Incident) (map[string]string, error) {
	if len(i.GetFindings()) == 0 && len(i.GetLabels()) == 0 {
		cause, err := tx.Cause(i.GetIncidentId())
		if err == nil {
			i.Findings = []*controlv1.Finding{cause}
		} else if !fault.Is(err, fault.NotFound) {
			return nil, err
		}
	}
	labels := alert.Labels(i)
	if i.GetRunId() == "" || labels[alert.LabelIncident] == "" {
		return labels, nil
	}
	run, err := tx.Run(i.GetRunId())
	if fault.Is(err, fault.NotFound) {
		return labels, nil
	}
	// What a run was started with that people route by, where it says so.
	for _, name := range []string{"project", "job", "team", "cluster"} {
		if value := run.GetSettings()[name]; value != "" {
			labels[name] = value
		}
	}
	return labels, err
}

// groupID is short and the same for the same route, receiver and labels.
func groupID(g store.AlertGroup) string {
	sum := sha256.Sum256([]byte(g.Route + "\x00" + g.Receiver + "\x00" + route.LabelText(g.Labels)))
	return hex.EncodeToString(sum[:12])
}

// escalationPrefix begins the route ids of groups that escalation made.
const escalationPrefix = "escalation:"

// routeOf gives a group's route; nil when the configuration has it no more.
func (r *Router) routeOf(id string) *route.Route {
	if strings.HasPrefix(id, escalationPrefix) {
		return &route.Route{Key: id, ID: id, Urgent: true}
	}
	return r.plan.Tree.ByID(id)
}
