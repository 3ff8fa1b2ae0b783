// Package slack tells a Slack channel, through an incoming webhook or through
// the Web API.
//
// The message is built for someone who was woken up: what is wrong in one
// sentence, where, and what has been done about it. Through the Web API an
// incident is one message for as long as it lives: it is changed when the
// incident does, and its thread gets the timeline as it happens. Where a signing secret is
// configured the message has a button that acknowledges.
//
// Slack cannot recognise a repeated message. A delivery that may have arrived
// before is looked for by the metadata of the messages in the channel, where
// the app may read them; else the incident's id in its last line lets people
// do it.
package slack

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/internal/plug"
)

// Kind is the notifier's entry in the catalogue.
var Kind = plug.Of[notify.Notifier, notify.Deps]("slack", Config{APIURL: "https://slack.com/api"}, New)

// Config is what users write: the URL of an incoming webhook, or a token and a
// channel.
type Config struct {
	// URL is that of the incoming webhook, which is a secret: whoever has it can
	// write to the channel.
	URL notify.Secret `yaml:"url"`
	// Token is a bot's, with the scope chat:write; with channels:history too, what
	// a crash left unclear is looked up instead of said twice.
	Token notify.Secret `yaml:"token"`
	// Channel is the channel's id, for instance C024BE91L. The bot is its member.
	Channel string `yaml:"channel"`
	// APIURL is where the Web API is.
	APIURL notify.Secret `yaml:"api_url"`
	// SigningSecret is the app's, whose interactivity request URL leads to
	// /hooks/v1/RECEIVER here; empty shows no button.
	SigningSecret notify.Secret `yaml:"signing_secret"`
	// Title and Text are templates in the place of the heading and of the
	// sentence below it, Text in Slack's mrkdwn; empty means Vigil's own. What they
	// fill in has no meaning for Slack.
	Title string `yaml:"title"`
	Text  string `yaml:"text"`
}

// Check reports what is missing and what does not go together.
func (c Config) Check(report func(key, format string, args ...any)) {
	if c.SigningSecret != "" {
		notify.CheckSecret(report, "signing_secret", c.SigningSecret)
	}
	if c.Token == "" && c.Channel == "" {
		notify.CheckURL(report, "url", c.URL)
		return
	}
	if c.URL != "" {
		report("url", "is given beside token and channel; keep one of the two ways")
	}
	if c.Channel == "" {
		report("channel", "is missing; want the channel's id, for instance C024BE91L")
	}
	notify.CheckSecret(report, "token", c.Token)
	notify.CheckURL(report, "api_url", c.APIURL)
}

// New makes the notifier.
func New(config Config, deps notify.Deps) (notify.Notifier, error) {
	if err := deps.CheckTemplates(map[string]string{"title": config.Title, "text": config.Text}); err != nil {
		return nil, err
	}
	return &notifier{config: config, deps: deps}, nil
}

type notifier struct {
	config Config
	deps   notify.Deps
}

// Limit is about one message a second for a channel, with short bursts.
// Source: https://docs.slack.dev/apis/web-api/rate-limits
func (n *notifier) Limit() notify.Limit { return notify.Limit{PerSecond: 1, Burst: 20} }

// Notify posts one message, or through the Web API brings the incident's
// message up to date.
func (n *notifier) Notify(ctx context.Context, delivery alert.Delivery) error {
	switch {
	case delivery.Occasion == alert.Story && n.config.Token == "":
		return nil // a webhook has no threads
	case delivery.Occasion == alert.Story:
		return n.happened(ctx, delivery)
	case n.config.Token != "":
		return n.tell(ctx, delivery)
	}
	body, err := json.Marshal(n.compose(delivery))
	if err != nil {
		return notify.Permanent(fmt.Errorf("write Slack message: %w", err))
	}
	_, err = notify.Post{URL: n.config.URL, Body: body}.Send(ctx, n.deps)
	return err
}

// Follows tells whether there are threads to write into.
func (n *notifier) Follows() bool { return n.config.Token != "" }

// Callback answers Slack's interactive requests.
func (n *notifier) Callback() http.Handler {
	if n.config.SigningSecret == "" || n.deps.Desk == nil {
		return nil
	}
	return http.HandlerFunc(n.callback)
}
