// Package alerting delivers notifications: it takes them from a durable queue
// and hands each to its receiver, until the receiver has it or refuses it for
// good.
//
// Every receiver has lanes of its own, so that a slow one delays nobody else.
// A delivery is leased while it is tried: when this process dies, the lease
// runs out and the delivery is tried again, by it or by another replica. So a
// delivery arrives at least once, and its key makes a repeat harmless.
package alerting

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/vigil-ml/vigil/alerting/notify"
)

// Deps is what code injects.
type Deps struct {
	Queue   Queue
	Log     *slog.Logger
	Metrics prometheus.Registerer
	Tracer  trace.Tracer
	// Clock is the time; nil means time.Now.
	Clock func() time.Time
	// HTTPClient is what notifiers post with; nil means one of their own.
	HTTPClient *http.Client
	// ExternalURL is where people reach the control plane; may be empty.
	ExternalURL string
}

// Alerting delivers notifications. Make one with [New], then run it once.
type Alerting struct {
	config    Config
	deps      Deps
	metrics   metrics
	receivers map[string]*chain
	names     []string
}

// New builds every receiver of a configuration. It fails with
// [fault.Invalid] and all mistakes in the receivers at once.
func New(config Config, deps Deps) (*Alerting, error) {
	return assemble(config, deps, Notifiers())
}

// Check finds every mistake in the receivers of a configuration, and then in
// who is told of what.
func Check(config Config) error {
	receivers, err := receiversOf(config, Notifiers(), notify.Deps{Log: slog.New(slog.DiscardHandler), Clock: time.Now})
	if err != nil {
		return err
	}
	var names []string
	for _, r := range receivers {
		names = append(names, r.name)
	}
	_, err = config.Plan(names)
	return err
}

func assemble(config Config, deps Deps, kinds catalog) (*Alerting, error) {
	if deps.Clock == nil {
		deps.Clock = time.Now
	}
	receivers, err := receiversOf(config, kinds, notify.Deps{
		HTTPClient: deps.HTTPClient, Log: deps.Log, Clock: deps.Clock, ExternalURL: deps.ExternalURL,
	})
	if err != nil {
		return nil, err
	}
	a := &Alerting{config: config, deps: deps, receivers: map[string]*chain{}}
	for _, r := range receivers {
		a.names = append(a.names, r.name)
		a.receivers[r.name] = newChain(r)
	}
	a.metrics = newMetrics(deps.Metrics, a.names)
	return a, nil
}

// Receivers gives the names of the receivers, in the order of the
// configuration.
func (a *Alerting) Receivers() []string { return append([]string(nil), a.names...) }
