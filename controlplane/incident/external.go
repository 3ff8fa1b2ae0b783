package incident

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/sortid"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// External is an alert that somebody else found, such as a Prometheus.
type External struct {
	Labels, Annotations map[string]string
	Starts              time.Time // zero means now
	Ends                time.Time // in the past: it is over; zero: unless it is sent again
	GeneratorURL        string

	fingerprint string // of the labels
}

// Externals takes in external alerts: each opens an incident with its labels,
// brings it up to date, or ends it. What is said twice changes nothing but for
// how long it is believed.
func (e *Engine) Externals(ctx context.Context, tx *store.Tx, alerts ...External) error {
	fingerprints := make([]string, len(alerts))
	for n, a := range alerts {
		fingerprints[n] = alert.Fingerprint(a.Labels)
	}
	if err := tx.LookForExternal(fingerprints...); err != nil {
		return err
	}
	var opened []store.IncidentRecord // and not told of yet: all are told of together
	for n, a := range alerts {
		a.fingerprint = fingerprints[n]
		record, found, err := tx.ExternalIncident(a.fingerprint)
		if err != nil {
			return err
		}
		if found && slices.ContainsFunc(opened, func(r store.IncidentRecord) bool { return r.Fingerprint == a.fingerprint }) {
			if err := e.deps.Router.Alert(ctx, tx, opened...); err != nil {
				return err
			}
			opened = nil
		}
		if !found {
			record = store.IncidentRecord{}
		}
		fresh, err := e.external(ctx, tx, a, record)
		if err != nil {
			return err
		}
		if fresh.Incident != nil {
			opened = append(opened, fresh)
		}
	}
	return e.deps.Router.Alert(ctx, tx, opened...)
}

// external takes in one alert, of which the newest incident is given, if there
// is one. It gives the incident that it opened and that nobody was told of.
func (e *Engine) external(ctx context.Context, tx *store.Tx, a External, record store.IncidentRecord) (opened store.IncidentRecord, err error) {
	now := e.deps.Clock()
	expires, over := a.Ends, !a.Ends.IsZero() && !a.Ends.After(now)
	if a.Ends.IsZero() {
		expires = now.Add(e.config.ExternalTimeout)
	}
	if a.Starts.IsZero() {
		a.Starts = now
		if over {
			a.Starts = a.Ends
		}
	}
	open := record.Incident != nil && record.Incident.GetState() != resolved
	switch {
	case over && !open:
		return opened, nil
	case over:
		return opened, e.resolve(ctx, tx, a.Ends, record, "Its sender says that it is over.", "")
	case open:
		return opened, e.refresh(tx, record, a, expires)
	case record.Incident != nil && now.Sub(record.Changed) <= againWithin:
		return opened, e.externalAgain(ctx, tx, record, a, expires)
	}
	return e.openExternal(tx, a, expires)
}

// refresh brings an open incident up to date: the earliest begin and the newest
// annotations count.
func (e *Engine) refresh(tx *store.Tx, record store.IncidentRecord, a External, expires time.Time) error {
	i := record.Incident
	if a.Starts.Before(i.GetOpened().AsTime()) {
		i.Opened = timestamppb.New(a.Starts)
	} else if maps.Equal(i.GetAnnotations(), a.Annotations) && i.GetGeneratorUrl() == a.GeneratorURL {
		return tx.SetExpiry(i.GetIncidentId(), expires)
	}
	i.Annotations, i.GeneratorUrl, i.Summary, record.Expires = a.Annotations, a.GeneratorURL, a.summary(), expires
	return tx.PutIncident(record)
}

// externalAgain reopens an incident whose alert fires again soon after its end.
func (e *Engine) externalAgain(ctx context.Context, tx *store.Tx, record store.IncidentRecord, a External, expires time.Time) error {
	i := record.Incident
	e.reopen(&record)
	record.Expires, record.Occurrences = expires, record.Occurrences+1
	i.Opened, i.Annotations, i.GeneratorUrl, i.Summary = timestamppb.New(a.Starts), a.Annotations, a.GeneratorURL, a.summary()
	text := fmt.Sprintf("It fires again, for the %s time.", ordinal(record.Occurrences))
	if err := note(tx, i.GetIncidentId(), e.deps.Clock(), reopened, text); err != nil {
		return err
	}
	if err := tx.PutIncident(record); err != nil {
		return err
	}
	return e.deps.Router.Alert(ctx, tx, record)
}

// openExternal opens an incident; to have it told is the caller's.
func (e *Engine) openExternal(tx *store.Tx, a External, expires time.Time) (store.IncidentRecord, error) {
	now := e.deps.Clock()
	id, err := freshID()
	if err != nil {
		return store.IncidentRecord{}, err
	}
	record := store.IncidentRecord{
		Fingerprint: a.fingerprint, Expires: expires, Changed: now, Findings: 1, Occurrences: 1,
		Incident: &controlv1.Incident{
			IncidentId: id, RunId: a.Labels[alert.LabelRun], Kind: a.Labels[alert.LabelName],
			Severity: severityOf(a.Labels[alert.LabelSeverity]), State: firing, Opened: timestamppb.New(a.Starts),
			Labels: a.Labels, Annotations: a.Annotations, GeneratorUrl: a.GeneratorURL, Summary: a.summary(),
		},
	}
	if err := tx.OpenIncident(record); err != nil {
		return store.IncidentRecord{}, err
	}
	return record, note(tx, id, now, "opened", record.Incident.GetSummary())
}

// freshID gives the id of an incident that no finding names.
func freshID() (string, error) {
	id, err := sortid.New()
	return "inc-" + id, err
}

// summary is the sentence that the alert has, or its name.
func (a External) summary() string {
	return cmp.Or(a.Annotations["summary"], a.Annotations["message"], a.Annotations["description"],
		a.Labels[alert.LabelName]+" fires.")
}

// severityOf reads the severities that people write; one that is none of ours
// calls a person.
func severityOf(word string) commonv1.Severity {
	switch strings.ToLower(word) {
	case "info", "none", "debug":
		return commonv1.Severity_SEVERITY_INFO
	case "warning", "warn":
		return commonv1.Severity_SEVERITY_WARNING
	}
	return commonv1.Severity_SEVERITY_CRITICAL
}
