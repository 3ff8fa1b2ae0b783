package email

import (
	"bytes"
	"context"
	"fmt"
	"html/template"
	"strings"

	gomail "github.com/wneessen/go-mail"

	"github.com/vigil-ml/vigil/alerting/alert"
)

// maxOthers is how many further alerts of a group a mail names.
const maxOthers = 20

// page is the HTML part. Mail programs know little of CSS, so that it is in
// the elements.
const page = `<!DOCTYPE html>
<html><body style="font-family: sans-serif; font-size: 14px; color: #222">
<div style="border-left: 6px solid {{.Color}}; padding-left: 12px">
<h2 style="margin: 0">{{.Title}}</h2>
<p>{{.Summary}}</p>
<p style="color: #666">{{.Status}}</p>
</div>
<table style="border-collapse: collapse">
{{range .Fields}}<tr><td style="padding: 2px 16px 2px 0; color: #666">{{.Name}}</td><td>{{.Text}}</td></tr>
{{end}}</table>
{{if .Chart}}<p><img src="cid:loss.png" alt="{{.Chart}}"><br><span style="color: #666">{{.Chart}}</span></p>
{{end}}{{if .Actions}}<h3>What Vigil did</h3><ul>{{range .Actions}}<li>{{.}}</li>{{end}}</ul>
{{end}}{{if .Others}}<h3>With it</h3><ul>{{range .Others}}<li>{{.}}</li>{{end}}</ul>
{{end}}<p style="color: #666">Incident {{.Incident}}{{if .Link}}, <a href="{{.Link}}">run {{.Run}}</a>{{end}}</p>
</body></html>
`

// content is what both parts say.
type content struct {
	Title, Summary, Status, Incident, Run, Link, Color, Chart string

	Fields          []alert.Field
	Actions, Others []string
}

// compose writes the mail.
func (n *notifier) compose(ctx context.Context, d alert.Delivery) (*gomail.Msg, error) {
	m := gomail.NewMsg()
	if err := m.From(n.config.From); err != nil {
		return nil, fmt.Errorf("write sender: %w", err)
	}
	if err := m.To(n.config.To...); err != nil {
		return nil, fmt.Errorf("write recipients: %w", err)
	}
	root := "<" + n.identifier(d.Key) + ">"
	m.Subject(oneLine(n.deps.Words(n.config.Subject, d, subject(d)), 200))
	m.SetDateWithValue(d.Created)
	m.SetMessageIDWithValue(n.identifier(d.ID))
	m.SetGenHeader(gomail.HeaderInReplyTo, root)
	m.SetGenHeader(gomail.HeaderReferences, root)
	m.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834: no holiday answers
	m.SetGenHeader("X-Vigil-Incident", oneLine(d.Incident.GetIncidentId(), 100))

	c := content{
		Title: d.Title(), Summary: n.deps.Words(n.config.Text, d, d.Summary()), Status: d.Status(), Incident: d.Incident.GetIncidentId(), Run: d.Incident.GetRunId(),
		Link: n.deps.RunURL(d.Incident.GetRunId()), Color: edge(d),
		Fields: d.Fields(), Actions: d.Actions(), Others: d.Others(maxOthers),
	}
	png, caption := n.chart(ctx, d)
	c.Chart = caption
	m.SetBodyString(gomail.TypeTextPlain, c.text())
	var html bytes.Buffer
	if err := template.Must(template.New("mail").Parse(page)).Execute(&html, c); err != nil {
		return nil, fmt.Errorf("write mail: %w", err)
	}
	m.AddAlternativeString(gomail.TypeTextHTML, html.String())
	if png != nil {
		err := m.EmbedReader("loss.png", bytes.NewReader(png), gomail.WithFileContentID("<loss.png>"), gomail.WithFileContentType("image/png"))
		if err != nil {
			return nil, fmt.Errorf("embed chart: %w", err)
		}
	}
	return m, nil
}

// text is the plain part.
func (c content) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n%s\n", c.Title, c.Summary)
	if c.Status != "" {
		fmt.Fprintf(&b, "%s\n", c.Status)
	}
	b.WriteByte('\n')
	for _, f := range c.Fields {
		fmt.Fprintf(&b, "%-10s %s\n", f.Name, f.Text)
	}
	list := func(head string, lines []string) {
		if len(lines) > 0 {
			fmt.Fprintf(&b, "\n%s:\n- %s\n", head, strings.Join(lines, "\n- "))
		}
	}
	list("What Vigil did", c.Actions)
	list("With it", c.Others)
	fmt.Fprintf(&b, "\nIncident %s\n", c.Incident)
	if c.Link != "" {
		fmt.Fprintf(&b, "%s\n", c.Link)
	}
	return b.String()
}

// edge is the coloured edge's: that of the state first, then of the severity.
func edge(d alert.Delivery) string {
	switch {
	case d.Resolved():
		return "#2e9e5b"
	case alert.Severity(d.Incident.GetSeverity()) == "Critical":
		return "#c9302c"
	case alert.Severity(d.Incident.GetSeverity()) == "Warning":
		return "#e8912d"
	default:
		return "#4a7fb5"
	}
}
