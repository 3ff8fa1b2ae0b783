// Package webhook posts incidents in the JSON that Alertmanager's webhooks
// have (version 4), so that what receives those receives these.
//
// An incident is one alert. Its fingerprint and its group key are the same for
// as long as it lives, by which a receiver tells a repeat.
package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/internal/plug"
	"github.com/vigil-ml/vigil/internal/telemetry"
)

// Kind is the notifier's entry in the catalogue.
var Kind = plug.Of[notify.Notifier, notify.Deps]("webhook", Config{}, New)

// Config is what users write.
type Config struct {
	// URL is where to post; it counts as a secret, since many hold a token.
	URL notify.Secret `yaml:"url"`
	// BearerToken is sent as Authorization: Bearer; empty sends none.
	BearerToken notify.Secret `yaml:"bearer_token"`
	// Headers are sent as they are; their values count as secrets.
	Headers map[string]notify.Secret `yaml:"headers"`
	// SigningSecret signs each request: X-Vigil-Timestamp is the time in seconds
	// since 1970, and X-Vigil-Signature is "v1=" and the HMAC-SHA256, in hex, of
	// "v1:TIMESTAMP:BODY". Empty signs nothing.
	SigningSecret notify.Secret `yaml:"signing_secret"`
}

// Check reports a URL that cannot be and headers that cannot be sent.
func (c Config) Check(report func(key, format string, args ...any)) {
	notify.CheckURL(report, "url", c.URL)
	if c.BearerToken != "" {
		notify.CheckSecret(report, "bearer_token", c.BearerToken)
	}
	if c.SigningSecret != "" {
		notify.CheckSecret(report, "signing_secret", c.SigningSecret)
	}
	for name, value := range c.Headers {
		switch {
		case !isToken(name):
			report("headers", "%q is not the name of a header", name)
		case !sendable(string(value)):
			report("headers."+name, "holds a line break or a control character")
		case c.BearerToken != "" && http.CanonicalHeaderKey(name) == "Authorization":
			report("headers."+name, "is also set by bearer_token; keep one of the two")
		}
	}
}

// New makes the notifier.
func New(config Config, deps notify.Deps) (notify.Notifier, error) {
	headers := make(map[string]notify.Secret, len(config.Headers)+1)
	for name, value := range config.Headers {
		headers[http.CanonicalHeaderKey(name)] = value
	}
	if config.BearerToken != "" {
		headers["Authorization"] = "Bearer " + config.BearerToken
	}
	return &notifier{url: config.URL, headers: headers, secret: config.SigningSecret, deps: deps}, nil
}

type notifier struct {
	url     notify.Secret
	headers map[string]notify.Secret
	secret  notify.Secret
	deps    notify.Deps
}

// Notify posts one payload. The trace context goes with it, so that the
// receiver's own spans join the trace.
func (n *notifier) Notify(ctx context.Context, delivery alert.Delivery) error {
	body, err := json.Marshal(payloadOf(delivery, n.deps.ExternalURL))
	if err != nil {
		return notify.Permanent(fmt.Errorf("write webhook payload: %w", err))
	}
	post := notify.Post{
		URL: n.url, Headers: n.headers, Body: body,
		Key: delivery.ID, Traceparent: telemetry.Traceparent(ctx),
	}
	if n.secret != "" {
		if post.Headers, err = n.signed(body); err != nil {
			return err
		}
	}
	_, err = post.Send(ctx, n.deps)
	return err
}

// signed is the headers with those that prove where the body comes from, and
// when it was sent.
func (n *notifier) signed(body []byte) (map[string]notify.Secret, error) {
	secret, err := n.secret.Reveal()
	if err != nil {
		return nil, err
	}
	at := strconv.FormatInt(n.deps.Now().Unix(), 10)
	headers := maps.Clone(n.headers)
	headers["X-Vigil-Timestamp"] = notify.Secret(at)
	headers["X-Vigil-Signature"] = notify.Secret(notify.Sign("v1=", secret, []byte("v1:"+at+":"), body))
	return headers, nil
}

// isToken tells whether a text is a header's name by RFC 9110, section 5.6.2.
func isToken(s string) bool {
	const special = "!#$%&'*+-.^_`|~"
	for _, r := range s {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !letter && !strings.ContainsRune(special, r) {
			return false
		}
	}
	return s != ""
}

// sendable tells whether a header may have the value.
func sendable(value string) bool {
	return !strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}
