// Package alertmanager hands incidents to Alertmanager, for sites that keep
// theirs.
//
// Alertmanager forgets what it is not told again, and its peers do not tell
// each other of alerts. So every one of a cluster is told, and told again at
// an interval for as long as an incident fires, also after a restart here or
// there.
package alertmanager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/plug"
)

// Kind is the notifier's entry in the catalogue.
var Kind = plug.Of[notify.Notifier, notify.Deps]("alertmanager", Config{Resend: time.Minute}, New)

// resendBatch is how many alerts go in one request, resendTimeout how long one
// may take.
const (
	resendBatch   = 500
	resendTimeout = 10 * time.Second
)

// Config is what users write.
type Config struct {
	// URLs are those of all Alertmanagers of one cluster.
	URLs []notify.Secret `yaml:"urls"`
	// BearerToken is sent as Authorization: Bearer; empty sends none.
	BearerToken notify.Secret `yaml:"bearer_token"`
	// Resend is how often what fires is told again. Alertmanager takes an alert
	// that it has not heard of for its resolve_timeout, 5m by default, as over.
	Resend time.Duration `yaml:"resend"`
}

// Check reports URLs that cannot be.
func (c Config) Check(report func(key, format string, args ...any)) {
	if len(c.URLs) == 0 {
		report("urls", "is missing; want the URL of each Alertmanager of the cluster")
	}
	for _, url := range c.URLs {
		notify.CheckURL(report, "urls", url)
	}
	if c.BearerToken != "" {
		notify.CheckSecret(report, "bearer_token", c.BearerToken)
	}
	if c.Resend < time.Second {
		report("resend", "is %v; want at least 1s", c.Resend)
	}
}

// New makes the notifier.
func New(config Config, deps notify.Deps) (notify.Notifier, error) {
	return &notifier{config: config, deps: deps}, nil
}

type notifier struct {
	config Config
	deps   notify.Deps
}

// posted is an alert as Alertmanager takes it. While it fires it has no end:
// Alertmanager then counts its resolve_timeout from now on.
// Source: https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml
type posted struct {
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	StartsAt     *time.Time        `json:"startsAt,omitempty"`
	EndsAt       *time.Time        `json:"endsAt,omitempty"`
	GeneratorURL string            `json:"generatorURL,omitempty"`
}

// Notify posts the delivery's alerts to every Alertmanager. One that takes
// them is enough; the others get them when they are told again.
func (n *notifier) Notify(ctx context.Context, delivery alert.Delivery) error {
	all, firing := alertsOf(delivery, n.deps.ExternalURL)
	body, err := json.Marshal(all)
	if err != nil {
		return notify.Permanent(fmt.Errorf("write alerts: %w", err))
	}
	if err := n.post(ctx, body); err != nil {
		return err
	}
	value := ""
	if len(firing) > 0 {
		again, err := json.Marshal(firing)
		if err != nil {
			return notify.Permanent(fmt.Errorf("write alerts: %w", err))
		}
		value = string(again)
	}
	return n.deps.Remember(ctx, delivery.Key, value)
}

// alertsOf gives the alerts of a delivery, and those of them that fire.
func alertsOf(d alert.Delivery, externalURL string) (all, firing []posted) {
	for _, a := range d.Alerts() {
		p := posted{Labels: a.Labels, Annotations: a.Annotations, GeneratorURL: a.GeneratorURL}
		if p.GeneratorURL == "" {
			p.GeneratorURL = externalURL
		}
		if !a.StartsAt.IsZero() {
			p.StartsAt = &a.StartsAt
		}
		if a.Resolved() {
			ends := a.EndsAt
			if ends.IsZero() {
				ends = d.Created
			}
			p.EndsAt = &ends
		} else {
			firing = append(firing, p)
		}
		all = append(all, p)
	}
	return all, firing
}

// post sends to all at once; the error is that of the first when nobody took
// it.
func (n *notifier) post(ctx context.Context, body []byte) error {
	errs := make([]error, len(n.config.URLs))
	group := life.NewGroup(ctx)
	for i, url := range n.config.URLs {
		group.Go("post alerts", func(ctx context.Context) error {
			p := notify.Post{URL: url, Path: "/api/v2/alerts", Body: body}
			if n.config.BearerToken != "" {
				p.Headers = map[string]notify.Secret{"Authorization": "Bearer " + n.config.BearerToken}
			}
			_, errs[i] = p.Send(ctx, n.deps)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	var failed error
	for _, err := range errs {
		if err == nil {
			return nil
		}
		// What can be tried again counts for more: another may take it then.
		if failed == nil || (notify.IsPermanent(failed) && !notify.IsPermanent(err)) {
			failed = err
		}
	}
	return failed
}

// Run tells what fires again, every [Config.Resend], until ctx ends.
func (n *notifier) Run(ctx context.Context) error {
	for well := true; life.Sleep(ctx, n.config.Resend); {
		err := n.resend(ctx)
		if err != nil && ctx.Err() == nil && well {
			n.deps.Log.Warn("what fires could not be told again", "receiver", n.deps.Receiver, "error", err)
		}
		well = err == nil
	}
	return nil
}

func (n *notifier) resend(ctx context.Context) error {
	if n.deps.Memory == nil {
		return nil
	}
	kept, err := n.deps.Memory.All(ctx)
	if err != nil {
		return err
	}
	var firing []posted
	for _, value := range kept {
		var some []posted
		if err := json.Unmarshal([]byte(value), &some); err != nil {
			return fmt.Errorf("read alerts that fire: %w", err)
		}
		firing = append(firing, some...)
	}
	var errs []error
	for from := 0; from < len(firing); from += resendBatch {
		body, err := json.Marshal(firing[from:min(from+resendBatch, len(firing))])
		if err != nil {
			return fmt.Errorf("write alerts: %w", err)
		}
		tryCtx, cancel := context.WithTimeout(ctx, resendTimeout)
		errs = append(errs, n.post(tryCtx, body))
		cancel()
	}
	return errors.Join(errs...)
}
