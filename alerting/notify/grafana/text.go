package grafana

import (
	"html"
	"strings"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/notify"
)

// textOf is what the annotation says. Grafana shows a small part of HTML in
// it, so that everything else is escaped.
func textOf(d alert.Delivery, deps notify.Deps) string {
	lines := []string{"<b>" + html.EscapeString(d.Title()) + "</b>", html.EscapeString(d.Summary())}
	if status := d.Status(); status != "" {
		lines = append(lines, html.EscapeString(status))
	}
	for _, action := range d.Actions() {
		lines = append(lines, "- "+html.EscapeString(action))
	}
	if deps.ExternalURL != "" {
		lines = append(lines, `<a href="`+html.EscapeString(deps.ExternalURL)+`">Vigil</a>`)
	}
	return strings.Join(lines, "\n")
}
