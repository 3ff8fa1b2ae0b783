// Package slack tells a Slack channel through an incoming webhook.
//
// The message is built for someone who was woken up: what is wrong in one
// sentence, where, and what has been done about it. Slack cannot recognise a
// repeated message; the incident's id in its last line lets people do it.
package slack

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/internal/plug"
)

// Kind is the notifier's entry in the catalogue.
var Kind = plug.Of[notify.Notifier, notify.Deps]("slack", Config{}, New)

// Config is what users write.
type Config struct {
	// URL is that of the incoming webhook, which is a secret: whoever has it can
	// write to the channel.
	URL notify.Secret `yaml:"url"`
}

// Check reports a URL that cannot be.
func (c Config) Check(report func(key, format string, args ...any)) {
	notify.CheckURL(report, "url", c.URL)
}

// New makes the notifier. Slack takes about one message a second for a
// channel and answers 429 beyond that.
func New(config Config, deps notify.Deps) (notify.Notifier, error) {
	return &notifier{config: config, deps: deps}, nil
}

type notifier struct {
	config Config
	deps   notify.Deps
}

// Notify posts one message.
func (n *notifier) Notify(ctx context.Context, delivery alert.Delivery) error {
	body, err := json.Marshal(compose(delivery, n.deps.ExternalURL))
	if err != nil {
		return notify.Permanent(fmt.Errorf("write Slack message: %w", err))
	}
	_, err = notify.Post{URL: n.config.URL, Body: body}.Send(ctx, n.deps)
	return err
}
