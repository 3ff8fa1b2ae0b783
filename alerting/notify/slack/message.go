package slack

import (
	"fmt"
	"slices"
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
	// maxThread is the same for a reply in the thread.
	maxThread = 12
)

// message is the body of an incoming webhook and of the Web API's methods. Text
// is what a phone's lock screen shows; the blocks are the message itself. The
// facts are in an attachment because only that has a coloured edge.
type message struct {
	Channel     string       `json:"channel,omitempty"`
	TS          string       `json:"ts,omitempty"` // of the message that is changed
	ThreadTS    string       `json:"thread_ts,omitempty"`
	Broadcast   bool         `json:"reply_broadcast,omitempty"`
	Text        string       `json:"text"`
	Blocks      []block      `json:"blocks"`
	Attachments []attachment `json:"attachments,omitempty"`
	Metadata    *metadata    `json:"metadata,omitempty"`
}

// metadata is what a message has for programs.
type metadata struct {
	Type    string `json:"event_type"`
	Payload mark   `json:"event_payload"`
}

// mark names the delivery that a message is.
type mark struct {
	Key      string `json:"key"`
	Delivery string `json:"delivery"`
}

type attachment struct {
	Color  string  `json:"color"`
	Blocks []block `json:"blocks"`
}

type block struct {
	Type     string `json:"type"`
	ID       string `json:"block_id,omitempty"`
	Text     *text  `json:"text,omitempty"`
	Fields   []text `json:"fields,omitempty"`
	Elements []any  `json:"elements,omitempty"` // of text or button
}

// button is one that acknowledges, or leads to a page.
type button struct {
	Type   string `json:"type"`
	Text   text   `json:"text"`
	Action string `json:"action_id"`
	Value  string `json:"value,omitempty"`
	URL    string `json:"url,omitempty"`
	Style  string `json:"style,omitempty"`
}

type text struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

// compose writes a delivery as a message.
func (n *notifier) compose(d alert.Delivery) message {
	emoji, color := look(d)
	title := n.deps.Words(n.config.Title, d, d.Title())
	words := n.deps.Words(n.config.Text, harmless(d), escape(d.Summary()))
	facts := []block{}
	if fields := fieldsOf(d); len(fields) > 0 {
		facts = append(facts, block{Type: "section", Fields: fields})
	}
	if others := d.Others(maxActions); len(others) > 0 {
		facts = append(facts, section("*With it*\n"+bullets(others)))
	}
	if done := actionsOf(d); done != "" {
		facts = append(facts, section(done))
	}
	facts = append(facts, block{Type: "context", Elements: []any{markdown(n.footer(d), maxText)}})
	if n.acknowledgeable(d) {
		facts = append(facts, block{Type: "actions", ID: "vigil", Elements: []any{button{
			Type: "button", Text: text{"plain_text", "Acknowledge"}, Action: acknowledge,
			Value: d.Incident.GetIncidentId(), Style: "primary",
		}}})
	}
	return message{
		Text: clip(escape(title)+". "+words, maxText),
		Blocks: []block{
			{Type: "header", Text: &text{Type: "plain_text", Text: clip(emoji+" "+title, maxHeader)}},
			section(words),
		},
		Attachments: []attachment{{Color: color, Blocks: facts}},
	}
}

// thread is what a reply in the incident's thread says: how it is, and the
// timeline from an entry on.
func thread(d alert.Delivery, from int) string {
	head := "*" + escape(d.Title()) + ".* " + escape(d.Status())
	return strings.Join(append([]string{head}, story(d, from)...), "\n")
}

// story is the timeline from an entry on, a line each.
func story(d alert.Delivery, from int) []string {
	lines := []string{}
	timeline := d.Incident.GetTimeline()
	for _, entry := range timeline[min(from, len(timeline)):] {
		switch entry.GetAction() {
		case "notified", "notify-tried":
			continue
		}
		line := escape(entry.GetText())
		if entry.GetTime() != nil {
			line = "`" + entry.GetTime().AsTime().UTC().Format("15:04:05") + "` " + line
		}
		lines = append(lines, clip(line, maxText/(maxThread+2)))
	}
	if more := len(lines) - maxThread; more > 0 {
		lines = append([]string{fmt.Sprintf("_%d earlier entries are left out_", more)}, lines[more:]...)
	}
	return lines
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
	return strings.Join(append(lines, bullets(actions)), "\n")
}

// bullets is at most maxActions lines as a list.
func bullets(texts []string) string {
	lines := make([]string, len(texts))
	for i, one := range texts {
		lines[i] = "\u2022 " + clip(escape(one), maxText/(maxActions+2))
	}
	return strings.Join(lines, "\n")
}

// footer has the state, the id, and where to read on.
func (n *notifier) footer(d alert.Delivery) string {
	parts := []string{}
	if status := d.Status(); status != "" {
		parts = append(parts, escape(status))
	}
	parts = append(parts, "Incident `"+escape(d.Incident.GetIncidentId())+"`")
	if dashboard := n.deps.RunURL(d.Incident.GetRunId()); n.deps.DashboardURL != "" && d.Incident.GetRunId() != "" {
		parts = append(parts, link(dashboard, "Run"))
	}
	if n.deps.ExternalURL != "" {
		parts = append(parts, link(n.deps.ExternalURL, "Vigil"))
	}
	return strings.Join(parts, "  ")
}

func link(url, name string) string { return "<" + escape(url) + "|" + name + ">" }

func section(content string) block {
	t := markdown(content, maxText)
	return block{Type: "section", Text: &t}
}

func markdown(content string, limit int) text {
	return text{Type: "mrkdwn", Text: clip(content, limit)}
}

// harmless is a delivery whose labels and annotations have no meaning for Slack:
// whoever may name a run must not be able to call a whole channel.
func harmless(d alert.Delivery) alert.Delivery {
	escaped := func(m map[string]string) map[string]string {
		out := make(map[string]string, len(m))
		for name, value := range m {
			out[escape(name)] = escape(value)
		}
		return out
	}
	alerts := slices.Clone(d.Alerts())
	for n := range alerts {
		alerts[n].Labels, alerts[n].Annotations = escaped(alerts[n].Labels), escaped(alerts[n].Annotations)
	}
	d.Group.Alerts, d.Group.Labels = alerts, escaped(d.Group.Labels)
	return d
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
