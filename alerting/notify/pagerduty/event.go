package pagerduty

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/notify"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Limits of the Events API v2. The event as a whole may have 512 KB; with the
// bounds below it stays under 100.
// Source: https://developer.pagerduty.com/docs/send-alert-event
const (
	maxSummary = 1024
	maxKey     = 255
	maxDetail  = 4096 // ours, of one custom detail
	maxDetails = 20   // ours
)

// event is an alert event.
type event struct {
	RoutingKey string   `json:"routing_key"`
	Action     string   `json:"event_action"`
	DedupKey   string   `json:"dedup_key"`
	Client     string   `json:"client,omitempty"`
	ClientURL  string   `json:"client_url,omitempty"`
	Payload    *payload `json:"payload,omitempty"`
	Links      []link   `json:"links,omitempty"`
}

// change is a change event.
// Source: https://developer.pagerduty.com/docs/send-change-event
type change struct {
	RoutingKey string        `json:"routing_key"`
	Payload    changePayload `json:"payload"`
	Links      []link        `json:"links,omitempty"`
}

type payload struct {
	Summary   string            `json:"summary"`
	Source    string            `json:"source"`
	Severity  string            `json:"severity"`
	Timestamp string            `json:"timestamp,omitempty"`
	Component string            `json:"component,omitempty"`
	Group     string            `json:"group,omitempty"`
	Class     string            `json:"class,omitempty"`
	Details   map[string]string `json:"custom_details,omitempty"`
}

type changePayload struct {
	Summary   string            `json:"summary"`
	Source    string            `json:"source,omitempty"`
	Timestamp string            `json:"timestamp,omitempty"`
	Details   map[string]string `json:"custom_details,omitempty"`
}

type link struct {
	Href string `json:"href"`
	Text string `json:"text,omitempty"`
}

func eventOf(d alert.Delivery, routingKey string, deps notify.Deps) event {
	e := event{
		RoutingKey: routingKey, Action: "trigger", DedupKey: dedupKey(d),
		Client: "Vigil", ClientURL: deps.ExternalURL, Links: linksOf(d, deps),
		Payload: &payload{
			Summary: clip(d.Title()+". "+d.Summary(), maxSummary), Source: sourceOf(d), Severity: severityOf(d),
			Group: d.Incident.GetRunId(), Class: d.Kind(), Details: detailsOf(d),
		},
	}
	if opened := d.Incident.GetOpened(); opened != nil {
		e.Payload.Timestamp = opened.AsTime().UTC().Format(time.RFC3339Nano)
	}
	if f := d.Finding(); f != nil {
		e.Payload.Component = fmt.Sprintf("rank %d", f.GetRank())
	}
	switch d.State {
	case controlv1.IncidentState_INCIDENT_STATE_ACKNOWLEDGED:
		e.Action = "acknowledge"
	case controlv1.IncidentState_INCIDENT_STATE_RESOLVED:
		e.Action = "resolve"
	}
	return e
}

// changeOf tells of the restarts that a timeline has from an entry on, the last
// of them first; false when there are none.
func changeOf(d alert.Delivery, from int, routingKey string, deps notify.Deps) (change, bool) {
	timeline := d.Incident.GetTimeline()
	var last *controlv1.TimelineEntry
	var all []string
	for _, entry := range timeline[min(from, len(timeline)):] {
		if entry.GetAction() == "restart" {
			last = entry
			all = append(all, entry.GetText())
		}
	}
	if last == nil {
		return change{}, false
	}
	run := d.Incident.GetRunId()
	c := change{RoutingKey: routingKey, Links: linksOf(d, deps), Payload: changePayload{
		Summary: clip("Run "+run+": "+last.GetText(), maxSummary), Source: sourceOf(d),
		Details: map[string]string{"incident": d.Incident.GetIncidentId(), "run": run, "restarts": clip(strings.Join(all, "\n"), maxDetail)},
	}}
	if last.GetTime() != nil {
		c.Payload.Timestamp = last.GetTime().AsTime().UTC().Format(time.RFC3339Nano)
	}
	return c, true
}

// dedupKey is the thread's key; one that is too long is its digest.
func dedupKey(d alert.Delivery) string {
	key := d.Key
	if len(key) <= maxKey {
		return key
	}
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

// sourceOf is where the problem is: the node where it is known, else the run.
func sourceOf(d alert.Delivery) string {
	if node := d.Finding().GetNode(); node != "" {
		return node
	}
	if run := d.Incident.GetRunId(); run != "" {
		return run
	}
	return "vigil"
}

func severityOf(d alert.Delivery) string {
	switch d.Incident.GetSeverity() {
	case commonv1.Severity_SEVERITY_CRITICAL:
		return "critical"
	case commonv1.Severity_SEVERITY_WARNING:
		return "warning"
	case commonv1.Severity_SEVERITY_INFO:
		return "info"
	default:
		return "error"
	}
}

func detailsOf(d alert.Delivery) map[string]string {
	details := map[string]string{"incident": d.Incident.GetIncidentId()}
	for _, f := range d.Fields() {
		details[strings.ToLower(f.Name)] = clip(f.Text, maxDetail)
	}
	if status := d.Status(); status != "" {
		details["status"] = status
	}
	if actions := d.Actions(); len(actions) > 0 {
		details["actions"] = clip(strings.Join(actions, "\n"), maxDetail)
	}
	if others := d.Others(maxDetails); len(others) > 0 {
		details["others"] = clip(strings.Join(others, "\n"), maxDetail)
	}
	return details
}

func linksOf(d alert.Delivery, deps notify.Deps) []link {
	var links []link
	if url := deps.RunURL(d.Incident.GetRunId()); url != "" {
		links = append(links, link{url, "Run " + d.Incident.GetRunId()})
	}
	if deps.DashboardURL != "" && deps.ExternalURL != "" {
		links = append(links, link{deps.ExternalURL, "Vigil"})
	}
	return links
}

// clip cuts a text to a number of characters.
func clip(s string, limit int) string {
	runes := []rune(strings.ToValidUTF8(s, "?"))
	if len(runes) <= limit {
		return string(runes)
	}
	return string(runes[:limit-3]) + "..."
}
