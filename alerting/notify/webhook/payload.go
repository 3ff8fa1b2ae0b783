package webhook

import (
	"fmt"
	"hash/fnv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

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
	labels, annotations := labelsOf(d), annotationsOf(d)
	one := alertData{
		Status: "firing", Labels: labels, Annotations: annotations,
		StartsAt: timeOf(d.Incident.GetOpened()), GeneratorURL: externalURL, Fingerprint: fingerprint(d.Key),
	}
	if d.Resolved() {
		one.Status, one.EndsAt = "resolved", timeOf(d.Incident.GetResolved())
	}
	return payload{
		Version: "4", GroupKey: d.Key, Status: one.Status, Receiver: d.Receiver,
		GroupLabels:  map[string]string{"incident": d.Incident.GetIncidentId()},
		CommonLabels: labels, CommonAnnotations: annotations, ExternalURL: externalURL,
		Alerts: []alertData{one},
	}
}

// labelsOf is what the incident is known by. Severity is among them because
// receivers route by it, although it may rise while the incident lives.
func labelsOf(d alert.Delivery) map[string]string {
	labels := map[string]string{
		"alertname": d.Kind(),
		"incident":  d.Incident.GetIncidentId(),
		"run":       d.Incident.GetRunId(),
	}
	if severity := alert.Severity(d.Incident.GetSeverity()); severity != "" {
		labels["severity"] = strings.ToLower(severity)
	}
	if f := d.Finding(); f != nil {
		if f.GetNode() != "" {
			labels["node"] = f.GetNode()
		}
		if f.Gpu != nil {
			labels["gpu"] = fmt.Sprint(f.GetGpu())
		}
		if f.GetProblem() == "" {
			labels["rank"] = fmt.Sprint(f.GetRank())
		}
	}
	return labels
}

// annotationsOf is what the incident has to say.
func annotationsOf(d alert.Delivery) map[string]string {
	annotations := map[string]string{
		"title":   d.Title(),
		"summary": d.Summary(),
		"state":   alert.State(d.State),
	}
	if f := d.Finding(); f != nil {
		annotations["onset_step"] = fmt.Sprint(f.GetOnsetStep())
		annotations["attempt"] = fmt.Sprint(f.GetAttempt())
	}
	if actions := d.Actions(); len(actions) > 0 {
		annotations["actions"] = strings.Join(actions, "\n")
	}
	return annotations
}

// fingerprint is 16 hexadecimal digits, as Alertmanager's are.
func fingerprint(key string) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(key))
	return fmt.Sprintf("%016x", h.Sum64())
}

// timeOf is a time in UTC; one that is not known is the year 1.
func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime().UTC()
}
