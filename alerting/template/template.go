// Package template has the texts that users write for their messages: Go
// templates over Alertmanager's data, with its functions and its default
// templates, so that what was written for it works here.
//
// Source: https://prometheus.io/docs/alerting/latest/notifications/
package template

import (
	"fmt"

	amtemplate "github.com/prometheus/alertmanager/template"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/internal/fault"
)

// Templates is Alertmanager's default templates and those of some files. It is
// safe for concurrent use.
type Templates struct{ from *amtemplate.Template }

// Load reads the templates of files, each of which may be a pattern such as
// /etc/vigil/*.tmpl. It fails with [fault.Invalid].
func Load(patterns ...string) (*Templates, error) {
	from, err := amtemplate.FromGlobs(patterns)
	if err != nil {
		return nil, fault.New(fault.Invalid, "read templates %v: %w", patterns, err)
	}
	return &Templates{from}, nil
}

// Text fills in a text with what a delivery tells. It fails with
// [fault.Invalid] for a text that is no template or wants what there is not.
func (t *Templates) Text(text string, d alert.Delivery, externalURL string) (string, error) {
	filled, err := t.from.ExecuteTextString(text, dataOf(d, externalURL))
	if err != nil {
		return "", fault.Mark(fault.Invalid, fmt.Errorf("fill in template: %w", err))
	}
	return filled, nil
}

// dataOf is a delivery as Alertmanager's templates know it.
func dataOf(d alert.Delivery, externalURL string) *amtemplate.Data {
	labels, annotations := d.Common()
	data := &amtemplate.Data{
		Receiver: d.Receiver, Status: "resolved", ExternalURL: externalURL, GroupLabels: amtemplate.KV(d.Group.Labels),
		CommonLabels: amtemplate.KV(labels), CommonAnnotations: amtemplate.KV(annotations),
	}
	for _, a := range d.Alerts() {
		one := amtemplate.Alert{
			Status: "firing", Labels: amtemplate.KV(a.Labels), Annotations: amtemplate.KV(a.Annotations),
			StartsAt: a.StartsAt, EndsAt: a.EndsAt, GeneratorURL: a.GeneratorURL, Fingerprint: a.Fingerprint,
		}
		if a.Resolved() {
			one.Status = "resolved"
		} else {
			data.Status = "firing"
		}
		data.Alerts = append(data.Alerts, one)
	}
	return data
}
