package alertapi

import (
	"cmp"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"time"

	"github.com/prometheus/common/model"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/alerting/match"
	"github.com/vigil-ml/vigil/controlplane/incident"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// posted is an alert as it is sent.
type posted struct {
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
	StartsAt     time.Time         `json:"startsAt"`
	EndsAt       time.Time         `json:"endsAt"`
	GeneratorURL string            `json:"generatorURL"`
}

// gettable is an alert as it is shown.
type gettable struct {
	Annotations  map[string]string `json:"annotations"`
	EndsAt       time.Time         `json:"endsAt"`
	Fingerprint  string            `json:"fingerprint"`
	Receivers    []named           `json:"receivers"`
	StartsAt     time.Time         `json:"startsAt"`
	Status       alertStatus       `json:"status"`
	UpdatedAt    time.Time         `json:"updatedAt"`
	GeneratorURL string            `json:"generatorURL,omitempty"`
	Labels       map[string]string `json:"labels"`
}

type alertStatus struct {
	InhibitedBy []string `json:"inhibitedBy"`
	SilencedBy  []string `json:"silencedBy"`
	MutedBy     []string `json:"mutedBy"`
	State       string   `json:"state"`
}

type groupShown struct {
	Labels      map[string]string `json:"labels"`
	RouteLabels map[string]string `json:"routeLabels"` // Vigil's routes have none
	Receiver    named             `json:"receiver"`
	Alerts      []gettable        `json:"alerts"`
}

// postAlerts takes alerts in, all in one transaction. Those that are no alerts
// are told and do not keep the others out.
func (a *API) postAlerts(r *http.Request) (any, error) {
	var alerts []posted
	if err := read(r, &alerts); err != nil {
		return nil, err
	}
	var wrong error
	var taken []incident.External
	for _, p := range alerts {
		if err := p.check(); err != nil {
			wrong = errors.Join(wrong, err)
			continue
		}
		taken = append(taken, incident.External{
			Labels: p.Labels, Annotations: p.Annotations, Starts: p.StartsAt, Ends: p.EndsAt, GeneratorURL: p.GeneratorURL,
		})
	}
	err := a.deps.Store.Update(r.Context(), func(tx *store.Tx) error {
		return a.deps.Incidents.Externals(r.Context(), tx, taken...)
	})
	if err != nil {
		return nil, err
	}
	return nil, fault.Mark(fault.Invalid, wrong)
}

// check makes an alert tidy, and refuses what is none.
func (p *posted) check() error {
	for name, value := range p.Labels {
		if value == "" {
			delete(p.Labels, name) // an empty label is none
			continue
		}
		if !model.UTF8Validation.IsValidLabelName(name) || !model.LabelValue(value).IsValid() {
			return fault.New(fault.Invalid, "read alert: label %q is none", name)
		}
	}
	switch {
	case len(p.Labels) == 0:
		return fault.New(fault.Invalid, "read alert: it has no labels")
	case !p.StartsAt.IsZero() && !p.EndsAt.IsZero() && p.EndsAt.Before(p.StartsAt):
		return fault.New(fault.Invalid, "read alert: it ends before it starts")
	}
	return nil
}

// filter is what of the alerts is asked for.
type filter struct {
	matchers                           match.Matchers
	active, silenced, inhibited, muted bool
	receiver                           *regexp.Regexp
	receivers                          match.Matchers // of receivers' labels
}

// filterOf reads a filter. Whether an alert is processed is not asked: Vigil
// shows none before it is, and neither does Alertmanager ask.
func filterOf(r *http.Request) (f filter, err error) {
	f = filter{active: flag(r, "active"), silenced: flag(r, "silenced"), inhibited: flag(r, "inhibited"), muted: flag(r, "muted")}
	if f.matchers, err = match.Parse(r.URL.Query()["filter"]...); err != nil {
		return f, err
	}
	if f.receivers, err = match.Parse(r.URL.Query()["receiver_matchers"]...); err != nil {
		return f, err
	}
	if text := r.URL.Query().Get("receiver"); text != "" {
		if f.receiver, err = regexp.Compile("^(?:" + text + ")$"); err != nil {
			return f, fault.New(fault.Invalid, "read receiver %q: %w", text, err)
		}
	}
	return f, nil
}

// leavesOut tells whether a receiver is none of those that are asked for.
func (f filter) leavesOut(receiver string) bool {
	return f.receiver != nil && !f.receiver.MatchString(receiver) || !f.receivers.Match(receiverLabels(receiver))
}

func (f filter) takes(a *controlv1.Alert) bool {
	if !f.matchers.Match(a.GetLabels()) || a.GetState() == controlv1.IncidentState_INCIDENT_STATE_RESOLVED {
		return false
	}
	left := func(receiver string) bool { return !f.leavesOut(receiver) }
	if (f.receiver != nil || len(f.receivers) > 0) && !slices.ContainsFunc(a.GetReceivers(), left) {
		return false
	}
	silenced, inhibited := len(a.GetSilencedBy()) > 0, len(a.GetInhibitedBy()) > 0
	return (f.active || silenced || inhibited) && (f.silenced || !silenced) && (f.inhibited || !inhibited)
}

func (a *API) listAlerts(r *http.Request) (any, error) {
	f, err := filterOf(r)
	if err != nil {
		return nil, err
	}
	shown := []gettable{}
	err = a.view(r, func(tx *store.Tx) error {
		open, err := tx.AllOpen(alertsShown)
		if err != nil {
			return err
		}
		for _, record := range open {
			alert, err := a.deps.Router.Describe(tx, record, a.deps.Clock())
			if err != nil {
				return err
			}
			if f.takes(alert) {
				shown = append(shown, show(alert))
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(shown, func(a, b gettable) int { return cmp.Compare(a.Fingerprint, b.Fingerprint) })
	return shown, nil
}

func (a *API) listGroups(r *http.Request) (any, error) {
	f, err := filterOf(r)
	if err != nil {
		return nil, err
	}
	shown := []groupShown{}
	err = a.view(r, func(tx *store.Tx) error {
		groups, err := a.deps.Router.Groups(tx, a.deps.Clock())
		if err != nil {
			return err
		}
		for _, g := range groups {
			if len(g.MutedBy) > 0 && !f.muted {
				continue
			}
			one := groupShown{Labels: notNil(g.Labels), RouteLabels: map[string]string{}, Receiver: named{g.Receiver}}
			for _, alert := range g.Alerts {
				if f.takes(alert) {
					alert.Receivers = slices.DeleteFunc(alert.GetReceivers(), f.leavesOut)
					one.Alerts = append(one.Alerts, show(alert, g.MutedBy...))
				}
			}
			if len(one.Alerts) > 0 && !f.leavesOut(g.Receiver) {
				shown = append(shown, one)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(shown, byLabels)
	return shown, nil
}

// byLabels orders groups as Alertmanager does: by their labels, then by
// receiver.
func byLabels(a, b groupShown) int {
	as, bs := setOf(a.Labels), setOf(b.Labels)
	switch {
	case as.Equal(bs):
		return cmp.Compare(a.Receiver.Name, b.Receiver.Name)
	case as.Before(bs):
		return -1
	}
	return 1
}

func setOf(labels map[string]string) model.LabelSet {
	set := model.LabelSet{}
	for name, value := range labels {
		set[model.LabelName(name)] = model.LabelValue(value)
	}
	return set
}

// show gives an alert as it is shown, in a group that time intervals may mute; as
// in Alertmanager's, only a look at groups tells of those.
func show(a *controlv1.Alert, mutedBy ...string) gettable {
	g := gettable{
		Annotations: notNil(a.GetAnnotations()), Labels: notNil(a.GetLabels()), Fingerprint: a.GetFingerprint(),
		StartsAt: utc(a.GetStarts()), EndsAt: utc(a.GetEnds()), UpdatedAt: utc(a.GetUpdated()),
		GeneratorURL: a.GetGeneratorUrl(), Receivers: []named{},
		Status: alertStatus{
			SilencedBy: append([]string{}, a.GetSilencedBy()...), InhibitedBy: append([]string{}, a.GetInhibitedBy()...),
			MutedBy: append([]string{}, mutedBy...), State: "active",
		},
	}
	if len(g.Status.SilencedBy)+len(g.Status.InhibitedBy)+len(mutedBy) > 0 {
		g.Status.State = "suppressed"
	}
	for _, name := range a.GetReceivers() {
		g.Receivers = append(g.Receivers, named{name})
	}
	return g
}

func notNil(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

func utc(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime().UTC()
}
