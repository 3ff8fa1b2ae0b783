package alert

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// The labels that every incident may have. docs/alerting.md tells of each.
const (
	LabelName     = "alertname" // the incident's kind
	LabelIncident = "incident"  // its id
	LabelRun      = "run"
	LabelSeverity = "severity" // info, warning or critical
	LabelNode     = "node"
	LabelRank     = "rank"
	LabelGPU      = "gpu"
)

// Labels gives what an incident is routed by: those that it was made with,
// such as an external alert's, and over them what is known of it now. Severity
// is among them although it may rise while the incident lives.
func Labels(i *controlv1.Incident) map[string]string {
	labels := maps.Clone(i.GetLabels())
	if labels == nil {
		labels = map[string]string{}
	}
	if len(i.GetLabels()) > 0 {
		return labels // it came with labels of its own: they are all that it is
	}
	labels[LabelName], labels[LabelIncident] = Delivery{Incident: i}.Kind(), i.GetIncidentId()
	if i.GetRunId() != "" {
		labels[LabelRun] = i.GetRunId()
	}
	if severity := Severity(i.GetSeverity()); severity != "" {
		labels[LabelSeverity] = strings.ToLower(severity)
	}
	if len(i.GetFindings()) > 0 {
		f := i.GetFindings()[0]
		if f.GetNode() != "" {
			labels[LabelNode] = f.GetNode()
		}
		if f.Gpu != nil {
			labels[LabelGPU] = strconv.FormatUint(uint64(f.GetGpu()), 10)
		}
		if f.GetProblem() == "" {
			labels[LabelRank] = strconv.FormatUint(uint64(f.GetRank()), 10)
		}
	}
	return labels
}

// Annotations gives what an incident has to say.
func (d Delivery) Annotations() map[string]string {
	if own := d.Incident.GetAnnotations(); len(own) > 0 {
		return maps.Clone(own)
	}
	annotations := map[string]string{"title": d.Title(), "summary": d.Summary(), "state": State(d.State)}
	if f := d.Finding(); f != nil {
		annotations["onset_step"] = fmt.Sprint(f.GetOnsetStep())
		annotations["attempt"] = fmt.Sprint(f.GetAttempt())
	}
	if actions := d.Actions(); len(actions) > 0 {
		annotations["actions"] = strings.Join(actions, "\n")
	}
	return annotations
}

// Alerts gives what is told: the group's alerts, or the incident as the only
// one.
func (d Delivery) Alerts() []Alert {
	if len(d.Group.Alerts) > 0 {
		return d.Group.Alerts
	}
	one := Alert{
		IncidentID: d.Incident.GetIncidentId(), Key: d.Key, State: d.State,
		Labels: Labels(d.Incident), Annotations: d.Annotations(), GeneratorURL: d.Incident.GetGeneratorUrl(),
	}
	one.Fingerprint = Fingerprint(one.Labels)
	if t := d.Incident.GetOpened(); t != nil {
		one.StartsAt = t.AsTime().UTC()
	}
	if t := d.Incident.GetResolved(); t != nil && d.Resolved() {
		one.EndsAt = t.AsTime().UTC()
	}
	return []Alert{one}
}

// Common gives the labels and the annotations that all alerts of the delivery
// have alike.
func (d Delivery) Common() (labels, annotations map[string]string) {
	for n, one := range d.Alerts() {
		if n == 0 {
			labels, annotations = maps.Clone(one.Labels), maps.Clone(one.Annotations)
			continue
		}
		keep(labels, one.Labels)
		keep(annotations, one.Annotations)
	}
	return labels, annotations
}

// keep deletes from all what other has not alike.
func keep(all, other map[string]string) {
	maps.DeleteFunc(all, func(name, value string) bool { have, ok := other[name]; return !ok || have != value })
}

// Fingerprint is Alertmanager's fingerprint of labels: FNV-1a, 64 bits, over
// names and values in order, each with a byte 255 behind it. Source: package
// model of github.com/prometheus/common, LabelSet.Fingerprint.
func Fingerprint(labels map[string]string) string {
	sum := uint64(14695981039346656037)
	add := func(s string) {
		for i := range len(s) {
			sum = (sum ^ uint64(s[i])) * 1099511628211
		}
		sum = (sum ^ 255) * 1099511628211
	}
	for _, name := range Names(labels) {
		add(name)
		add(labels[name])
	}
	return hex.EncodeToString(binary.BigEndian.AppendUint64(nil, sum))
}

// Names gives the names of labels, sorted.
func Names(labels map[string]string) []string {
	names := make([]string, 0, len(labels))
	for name := range labels {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
