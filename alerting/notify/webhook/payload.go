package webhook

import (
	"time"

	"github.com/vigil-ml/vigil/alerting/alert"
)

// payload is Alertmanager's webhook data, version 4.
// Source: https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
type payload struct {
	Version           string            `json:"version"`
	GroupKey          string            `json:"groupKey"`
	TruncatedAlerts   int               `json:"truncatedAlerts"`
	Status            string            `json:"status"`
	Receiver          string            `json:"receiver"`
	GroupLabels       map[string]string `json:"groupLabels"`
	CommonLabels      map[string]string `json:"commonLabels"`
	CommonAnnotations map[string]string `json:"commonAnnotations"`
	ExternalURL       string            `json:"externalURL"`
	Alerts            []alertData       `json:"alerts"`
}

// alertData is one alert of it. EndsAt is the year 1 while it fires, as
// Alertmanager has it.
type alertData struct {
	Status       string            `json:"status"`
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
	StartsAt     time.Time         `json:"startsAt"`
	EndsAt       time.Time         `json:"endsAt"`
	GeneratorURL string            `json:"generatorURL"`
	Fingerprint  string            `json:"fingerprint"`
}

func payloadOf(d alert.Delivery, externalURL string) payload {
	labels, annotations := d.Common()
	p := payload{
		Version: "4", GroupKey: d.Group.Key, TruncatedAlerts: d.Group.Truncated, Status: "resolved", Receiver: d.Receiver,
		GroupLabels: d.Group.Labels, CommonLabels: labels, CommonAnnotations: annotations, ExternalURL: externalURL,
	}
	if len(d.Group.Alerts) == 0 {
		p.GroupKey, p.GroupLabels = d.Key, map[string]string{alert.LabelIncident: d.Incident.GetIncidentId()}
	}
	for _, a := range d.Alerts() {
		one := alertData{
			Status: "firing", Labels: a.Labels, Annotations: a.Annotations, StartsAt: a.StartsAt, EndsAt: a.EndsAt,
			GeneratorURL: a.GeneratorURL, Fingerprint: a.Fingerprint,
		}
		if one.GeneratorURL == "" && one.Labels[alert.LabelIncident] != "" { // Vigil's own
			one.GeneratorURL = externalURL
		}
		if one.Annotations == nil {
			one.Annotations = map[string]string{}
		}
		if a.Resolved() {
			one.Status = "resolved"
		} else {
			p.Status = "firing"
		}
		p.Alerts = append(p.Alerts, one)
	}
	if p.CommonAnnotations == nil {
		p.CommonAnnotations = map[string]string{}
	}
	if p.GroupLabels == nil {
		p.GroupLabels = map[string]string{}
	}
	return p
}
