package alerting

import (
	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/alerting/notify/alertmanager"
	"github.com/vigil-ml/vigil/alerting/notify/email"
	"github.com/vigil-ml/vigil/alerting/notify/grafana"
	"github.com/vigil-ml/vigil/alerting/notify/log"
	"github.com/vigil-ml/vigil/alerting/notify/pagerduty"
	"github.com/vigil-ml/vigil/alerting/notify/slack"
	"github.com/vigil-ml/vigil/alerting/notify/webhook"
	"github.com/vigil-ml/vigil/internal/plug"
)

// Notifiers is the catalogue of the kinds of receivers. A new kind is one line
// here.
func Notifiers() plug.Catalog[notify.Notifier, notify.Deps] {
	return plug.Catalog[notify.Notifier, notify.Deps]{
		alertmanager.Kind,
		email.Kind,
		grafana.Kind,
		log.Kind,
		pagerduty.Kind,
		slack.Kind,
		webhook.Kind,
	}
}
