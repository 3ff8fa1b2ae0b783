// Package alerting delivers notifications: it takes them from a durable queue
// and hands each to its receiver, until the receiver has it or refuses it for
// good.
//
// Every receiver has lanes of its own, so that a slow one delays nobody else.
// A delivery is leased while it is tried: when this process dies, the lease
// runs out and the delivery is tried again, by it or by another replica. So a
// delivery arrives at least once, and its key makes a repeat harmless.
//
// Between the queue and a receiver stand, in this order: the pause that it
// asked for, the provider's limit, and a circuit breaker. While that is open,
// or when a delivery is given up, the receiver's fallback is told.
package alerting

import (
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/alerting/template"
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
	// Memory gives a receiver's durable memory; nil means none.
	Memory func(receiver string) notify.Memory
	// Desk takes acknowledgements that come through receivers; may be nil.
	Desk notify.Desk
	// Series has the runs' losses, for charts; may be nil.
	Series notify.Series
	// Trouble is told which receivers fail; may be nil.
	Trouble Trouble
}

// Alerting delivers notifications. Make one with [New], then run it once.
type Alerting struct {
	config    Config
	deps      Deps
	metrics   metrics
	receivers map[string]*chain
	names     []string

	outcomes chan alert.Outcome
	room     chan struct{}  // a receiver that was full has room again
	looks    chan struct{}  // a receiver's health is worth a look
	later    chan time.Time // when a try that was put off is due
}

// New builds every receiver of a configuration. It fails with
// [fault.Invalid] and all mistakes in the receivers at once.
func New(config Config, deps Deps) (*Alerting, error) {
	return assemble(config, deps, Notifiers())
}

// Check finds every mistake in the receivers of a configuration, and then in
// who is told of what.
func Check(config Config) error {
	fill, err := fillOf(config, "")
	if err != nil {
		return err
	}
	receivers, err := receiversOf(config, Notifiers(), notify.Deps{Log: slog.New(slog.DiscardHandler), Clock: time.Now, Fill: fill}, nil)
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
	fill, err := fillOf(config, deps.ExternalURL)
	if err != nil {
		return nil, err
	}
	receivers, err := receiversOf(config, kinds, notify.Deps{
		Fill:       fill,
		HTTPClient: deps.HTTPClient, Log: deps.Log, Clock: deps.Clock, ExternalURL: deps.ExternalURL,
		DashboardURL: config.DashboardURL, Desk: deps.Desk, Series: deps.Series,
	}, deps.Memory)
	if err != nil {
		return nil, err
	}
	a := &Alerting{
		config: config, deps: deps, receivers: map[string]*chain{},
		outcomes: make(chan alert.Outcome, outcomesHeld), room: make(chan struct{}, 1), looks: make(chan struct{}, 1),
		later: make(chan time.Time, putOffHeld),
	}
	for _, r := range receivers {
		a.names = append(a.names, r.name)
		a.receivers[r.name] = newChain(r, deps.Clock)
	}
	a.metrics = newMetrics(deps.Metrics, a.names)
	return a, nil
}

// fillOf reads the templates and gives what fills in a text with them.
func fillOf(config Config, externalURL string) (func(string, alert.Delivery) (string, error), error) {
	templates, err := template.Load(config.Templates...)
	if err != nil {
		return nil, err
	}
	return func(text string, d alert.Delivery) (string, error) { return templates.Text(text, d, externalURL) }, nil
}

// Receivers gives the names of the receivers, in the order of the
// configuration.
func (a *Alerting) Receivers() []string { return append([]string(nil), a.names...) }

// Followers gives the names of the receivers that want to be told what happens
// to an incident between its notifications.
func (a *Alerting) Followers() []string {
	return slices.DeleteFunc(a.Receivers(), func(name string) bool {
		f, ok := a.receivers[name].notifier.(notify.Follower)
		return !ok || !f.Follows()
	})
}
