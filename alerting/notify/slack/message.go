package slack

import (
	"fmt"
	"strings"
	"unicode/utf16"

	"github.com/vigil-ml/vigil/alerting/alert"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// Slack's limits, in characters as JavaScript counts them (UTF-16 units).
// Source: https://docs.slack.dev/reference/block-kit/blocks
const (
	maxHeader = 150
	maxText   = 3000
	maxField  = 2000
	maxFields = 10
	// maxActions is ours: beyond so many nobody reads on.
	maxActions = 8
)

// message is the body of an incoming webhook. Text is what a phone's lock
// screen shows; the blocks are the message itself. The facts are in an
// attachment because only that has a coloured edge.
type message struct {
	Text        string       `json:"text"`
	Blocks      []block      `json:"blocks"`
	Attachments []attachment `json:"attachments"`
}

type attachment struct {
	Color  string  `json:"color"`
	Blocks []block `json:"blocks"`
}

type block struct {
	Type     string `json:"type"`
	Text     *text  `json:"text,omitempty"`
	Fields   []text `json:"fields,omitempty"`
	Elements []text `json:"elements,omitempty"`
}

type text struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

// compose writes a delivery as a message. The link leads to the control plane
// and may be empty.
func compose(d alert.Delivery, link string) message {
	emoji, color := look(d)
	facts := []block{}
	if fields := fieldsOf(d); len(fields) > 0 {
		facts = append(facts, block{Type: "section", Fields: fields})
	}
	if done := actionsOf(d); done != "" {
		facts = append(facts, section(done))
	}
	facts = append(facts, block{Type: "context", Elements: []text{markdown(footer(d, link), maxText)}})
	return message{
		Text: clip(escape(d.Title()+". "+d.Summary()), maxText),
		Blocks: []block{
			{Type: "header", Text: &text{Type: "plain_text", Text: clip(emoji+" "+d.Title(), maxHeader)}},
			section(escape(d.Summary())),
		},
		Attachments: []attachment{{Color: color, Blocks: facts}},
	}
}

// look is how a delivery catches the eye: by its state first, then by its
// severity.
func look(d alert.Delivery) (emoji, color string) {
	switch {
	case d.Resolved():
		return "\u2705", "#2e9e5b" // white check mark, green
	case d.Incident.GetSeverity() == commonv1.Severity_SEVERITY_CRITICAL:
		return "\U0001F534", "#c9302c" // red circle, red
	case d.Incident.GetSeverity() == commonv1.Severity_SEVERITY_WARNING:
		return "\U0001F7E0", "#e8912d" // orange circle, orange
	default:
		return "\U0001F535", "#4a7fb5" // blue circle, blue
	}
}

func fieldsOf(d alert.Delivery) []text {
	var fields []text
	for _, f := range d.Fields() {
		if len(fields) < maxFields {
			fields = append(fields, markdown("*"+escape(f.Name)+"*\n"+escape(f.Text), maxField))
		}
	}
	return fields
}

// actionsOf says what Vigil did, the latest when there is more than fits.
func actionsOf(d alert.Delivery) string {
	actions := d.Actions()
	if len(actions) == 0 {
		return ""
	}
	lines := []string{"*What Vigil did*"}
	if more := len(actions) - maxActions; more > 0 {
		lines = append(lines, fmt.Sprintf("_%d earlier steps are left out_", more))
		actions = actions[more:]
	}
	for _, action := range actions {
		lines = append(lines, "\u2022 "+clip(escape(action), maxText/(maxActions+2)))
	}
	return strings.Join(lines, "\n")
}

func footer(d alert.Delivery, link string) string {
	parts := []string{}
	if status := d.Status(); status != "" {
		parts = append(parts, escape(status))
	}
	parts = append(parts, "Incident `"+escape(d.Incident.GetIncidentId())+"`")
	if link != "" {
		parts = append(parts, "<"+escape(link)+"|Vigil>")
	}
	return strings.Join(parts, "  ")
}

func section(content string) block {
	t := markdown(content, maxText)
	return block{Type: "section", Text: &t}
}

func markdown(content string, limit int) text {
	return text{Type: "mrkdwn", Text: clip(content, limit)}
}

// escape takes away the meaning of the three characters that have one for
// Slack.
func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(s)
}

// clip cuts a text to a number of UTF-16 units and never through an escaped
// character; an empty one, which Slack refuses, becomes a dash.
func clip(s string, limit int) string {
	if s == "" {
		return "-"
	}
	units, cut := 0, 0
	for i, r := range s {
		if units <= limit-len("...") {
			cut = i
		}
		units += utf16.RuneLen(r)
	}
	if units <= limit {
		return s
	}
	if amp := strings.LastIndexByte(s[:cut], '&'); amp >= 0 && cut-amp < len("&amp;") && !strings.Contains(s[amp:cut], ";") {
		cut = amp
	}
	return s[:cut] + "..."
}
