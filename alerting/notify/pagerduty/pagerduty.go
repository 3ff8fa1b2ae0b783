// Package pagerduty tells PagerDuty through its Events API v2.
//
// A thread of deliveries is one incident there, by its dedup_key, which stays
// the same: a delivery that comes twice changes nothing. An attempt that was
// started again shows as a change event. Where a signing secret is configured,
// an acknowledgement in PagerDuty acknowledges here.
package pagerduty

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/internal/plug"
)

// Kind is the notifier's entry in the catalogue.
var Kind = plug.Of[notify.Notifier, notify.Deps]("pagerduty", Config{URL: "https://events.pagerduty.com"}, New)

// Config is what users write.
type Config struct {
	// RoutingKey is the integration key of a service, of Events API v2.
	RoutingKey notify.Secret `yaml:"routing_key"`
	// URL is where the API is: https://events.pagerduty.com, or
	// https://events.eu.pagerduty.com for accounts in Europe.
	URL notify.Secret `yaml:"url"`
	// SigningSecret is that of a webhook (v3) of PagerDuty's that calls
	// /hooks/v1/RECEIVER here; empty takes no calls.
	SigningSecret notify.Secret `yaml:"signing_secret"`
	// Summary is a template in the place of the event's summary; empty means
	// Vigil's own.
	Summary string `yaml:"summary"`
}

// Check reports what is missing.
func (c Config) Check(report func(key, format string, args ...any)) {
	notify.CheckSecret(report, "routing_key", c.RoutingKey)
	notify.CheckURL(report, "url", c.URL)
	if c.SigningSecret != "" {
		notify.CheckSecret(report, "signing_secret", c.SigningSecret)
	}
}

// New makes the notifier.
func New(config Config, deps notify.Deps) (notify.Notifier, error) {
	if err := deps.CheckTemplates(map[string]string{"summary": config.Summary}); err != nil {
		return nil, err
	}
	return &notifier{config: config, deps: deps}, nil
}

// changesKey begins the keys under which is remembered how much of an
// incident's timeline change events have told. It stays as long as the incident
// does, which may be opened again.
const changesKey = "changes/"

type notifier struct {
	config Config
	deps   notify.Deps
}

// Limit is 120 events a minute for a routing key. PagerDuty does not promise a
// number and answers 429 beyond its own.
func (n *notifier) Limit() notify.Limit { return notify.Limit{PerSecond: 2, Burst: 20} }

// Follows tells that restarts are told of when they happen.
func (n *notifier) Follows() bool { return true }

// Notify sends one event, or of what merely happened a change event for the
// restarts in it. A change event that is not taken together with an event is only
// logged, and sent the next time: the incident was told.
func (n *notifier) Notify(ctx context.Context, delivery alert.Delivery) error {
	key, err := n.config.RoutingKey.Reveal()
	if err != nil {
		return err
	}
	if delivery.Occasion == alert.Story {
		return n.changes(ctx, delivery, key)
	}
	if n.config.SigningSecret != "" && !delivery.Resolved() {
		// What PagerDuty calls back with is the dedup_key.
		if err := n.deps.Remember(ctx, dedupKey(delivery), delivery.Incident.GetIncidentId()); err != nil {
			return err
		}
	}
	event := eventOf(delivery, key, n.deps)
	event.Payload.Summary = clip(n.deps.Words(n.config.Summary, delivery, event.Payload.Summary), maxSummary)
	if err := n.send(ctx, "/v2/enqueue", key, event); err != nil {
		return err
	}
	if delivery.Resolved() && n.config.SigningSecret != "" {
		if err := n.deps.Remember(ctx, dedupKey(delivery), ""); err != nil {
			return err
		}
	}
	if err := n.changes(ctx, delivery, key); err != nil {
		n.deps.Log.Warn("PagerDuty did not take a change event", "receiver", n.deps.Receiver, "error", err)
	}
	return nil
}

// changes sends one change event for the restarts that the timeline has since
// the last one.
func (n *notifier) changes(ctx context.Context, d alert.Delivery, key string) error {
	remembered := changesKey + d.Incident.GetIncidentId()
	text, err := n.deps.Recall(ctx, remembered)
	if err != nil {
		return err
	}
	from, _ := strconv.Atoi(text) // none is from the beginning
	upTo := len(d.Incident.GetTimeline())
	if change, ok := changeOf(d, from, key, n.deps); ok {
		if err := n.send(ctx, "/v2/change/enqueue", key, change); err != nil {
			return err
		}
	} else if text == "" || upTo == from {
		return nil
	}
	return n.deps.Remember(ctx, remembered, strconv.Itoa(upTo))
}

func (n *notifier) send(ctx context.Context, path, key string, event any) error {
	body, err := json.Marshal(event)
	if err != nil {
		return notify.Permanent(fmt.Errorf("write PagerDuty event: %w", err))
	}
	_, err = notify.Post{URL: n.config.URL, Path: path, Body: body, Hide: []string{key}}.Send(ctx, n.deps)
	return err
}

// Callback answers PagerDuty's webhooks.
func (n *notifier) Callback() http.Handler {
	if n.config.SigningSecret == "" || n.deps.Desk == nil {
		return nil
	}
	return http.HandlerFunc(n.callback)
}
