package alert

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Title is the heading: how bad, what, and where, for instance
// "Critical: nonfinite in run digits-7".
func (d Delivery) Title() string {
	head := Severity(d.Incident.GetSeverity())
	switch {
	case d.Resolved():
		head = "Resolved"
	case head == "":
		head = "Alert"
	}
	return strings.TrimSpace(fmt.Sprintf("%s: %s %s", head, d.Kind(), d.place()))
}

// place is where it is: a node and its GPU where a node's problem is the cause,
// else a run.
func (d Delivery) place() string {
	node := d.Incident.GetNode()
	switch {
	case node == "" && d.Incident.GetRunId() != "":
		return "in run " + d.Incident.GetRunId()
	case node == "" && d.Incident.GetLabels()[LabelNode] != "":
		return "on " + d.Incident.GetLabels()[LabelNode]
	case node == "":
		return ""
	}
	text := "on " + node
	if f := d.Finding(); f != nil && f.Gpu != nil {
		text += fmt.Sprintf(" GPU %d", f.GetGpu())
	}
	if run := d.Incident.GetRunId(); run != "" {
		text += ", in run " + run
	}
	return text
}

// Kind is the incident's kind, or "incident" when it has none.
func (d Delivery) Kind() string {
	if kind := d.Incident.GetKind(); kind != "" {
		return kind
	}
	return "incident"
}

// Status is one line on the incident's life, for instance "Firing since
// 2026-03-01 03:12:09 UTC." or "Resolved after 12.4 s.". It is empty where
// neither is known.
func (d Delivery) Status() string {
	opened := "."
	if d.Incident.GetOpened() != nil {
		opened = " since " + d.Incident.GetOpened().AsTime().UTC().Format("2006-01-02 15:04:05 MST") + "."
	}
	switch d.State {
	case controlv1.IncidentState_INCIDENT_STATE_FIRING:
		return "Firing" + opened
	case controlv1.IncidentState_INCIDENT_STATE_ACKNOWLEDGED:
		return "Acknowledged; firing" + opened
	case controlv1.IncidentState_INCIDENT_STATE_RESOLVED:
		if lasted, ok := d.Duration(); ok {
			return "Resolved after " + Lasted(lasted) + "."
		}
		return "Resolved."
	}
	return ""
}

// Duration is how long the incident lasted; false while it is not over or its
// times are not known.
func (d Delivery) Duration() (time.Duration, bool) {
	if !d.Resolved() || d.Incident.GetOpened() == nil || d.Incident.GetResolved() == nil {
		return 0, false
	}
	return max(0, d.Incident.GetResolved().AsTime().Sub(d.Incident.GetOpened().AsTime())), true
}

// Summary is one plain sentence: what is wrong.
func (d Delivery) Summary() string {
	if s := d.Incident.GetSummary(); s != "" {
		return s
	}
	if f := d.Finding(); f.GetSummary() != "" {
		return f.GetSummary()
	}
	return d.Title() + "."
}

// Finding is the one that the incident began with; nil when it has none.
func (d Delivery) Finding() *controlv1.Finding {
	if findings := d.Incident.GetFindings(); len(findings) > 0 {
		return findings[0]
	}
	return nil
}

// Field is one named fact.
type Field struct{ Name, Text string }

// Fields is what a person wants to know at a glance, in the order of need;
// what is not known is left out.
func (d Delivery) Fields() []Field {
	fields := []Field{
		{"Run", d.Incident.GetRunId()},
		{"Severity", Severity(d.Incident.GetSeverity())},
	}
	if f := d.Finding(); f != nil && f.GetProblem() != "" {
		fields = append(fields, Field{"Node", f.GetNode()}, Field{"GPU", gpu(f)}, Field{"Device", f.GetDevice()},
			Field{"Runs", strings.Join(d.Incident.GetAffectedRuns(), ", ")})
	} else if f != nil {
		fields = append(fields,
			Field{"Node", f.GetNode()},
			Field{"Rank", Ranks(f)},
			Field{"Step", steps(f)},
			Field{"Attempt", strconv.FormatUint(uint64(f.GetAttempt()), 10)},
		)
	}
	if n := len(d.Incident.GetFindings()); n > 1 {
		fields = append(fields, Field{"Findings", strconv.Itoa(n)})
	}
	return slices.DeleteFunc(fields, func(f Field) bool { return f.Text == "" })
}

func gpu(f *controlv1.Finding) string {
	if f.Gpu == nil {
		return ""
	}
	return strconv.FormatUint(uint64(f.GetGpu()), 10)
}

// steps is the onset step, and the step of detection where it is another.
func steps(f *controlv1.Finding) string {
	if f.GetStep() == f.GetOnsetStep() {
		return strconv.FormatInt(f.GetStep(), 10)
	}
	return fmt.Sprintf("%d (seen at %d)", f.GetOnsetStep(), f.GetStep())
}

// Actions is what was done about the incident, oldest first, a sentence each.
// Its opening, its findings and its notifications are left out, since the
// delivery itself tells them, and its end, unless it is that which is told.
func (d Delivery) Actions() []string {
	var actions []string
	for _, entry := range d.Incident.GetTimeline() {
		switch entry.GetAction() {
		case "opened", "finding", "notified":
			continue
		case "resolved":
			if !d.Resolved() {
				continue
			}
		}
		actions = append(actions, entry.GetText())
	}
	return actions
}

// Others is what a delivery of a group tells besides its incident, a line for
// each alert; at most limit lines, the last of which counts the rest.
func (d Delivery) Others(limit int) []string {
	var lines []string
	more := d.Group.Truncated
	for _, a := range d.Group.Alerts {
		if a.IncidentID == d.Incident.GetIncidentId() {
			continue
		}
		if len(lines) == limit-1 {
			more++
			continue
		}
		line := fmt.Sprintf("%s: %s", State(a.State), a.Labels[LabelName])
		if run := a.Labels[LabelRun]; run != "" {
			line += " in run " + run
		}
		if node := a.Labels[LabelNode]; node != "" {
			line += " on node " + node
		}
		lines = append(lines, line)
	}
	if more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", more))
	}
	return lines
}

// Severity is a severity as a word; empty when it is not known.
func Severity(s commonv1.Severity) string {
	switch s {
	case commonv1.Severity_SEVERITY_INFO:
		return "Info"
	case commonv1.Severity_SEVERITY_WARNING:
		return "Warning"
	case commonv1.Severity_SEVERITY_CRITICAL:
		return "Critical"
	}
	return ""
}

// State is an incident's state as a word in lower case.
func State(s controlv1.IncidentState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "INCIDENT_STATE_"))
}

// Lasted is a duration as people say it: "40 ms", "12.4 s", "3 min 20 s",
// "2 h 5 min".
func Lasted(d time.Duration) string {
	switch {
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Truncate(100*time.Millisecond).Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	default:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
}
