package notify

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Deps is what code injects into a notifier. Only Log must be given.
type Deps struct {
	// HTTPClient is used as it is, but that redirects are never followed; nil
	// means a client of its own.
	HTTPClient *http.Client
	// Log is never nil.
	Log *slog.Logger
	// Clock is the time; nil means time.Now.
	Clock func() time.Time
	// ExternalURL is where people reach the control plane; empty when it is not
	// known.
	ExternalURL string
	// DashboardURL is the page of a run's graphs, with {run} where the run's id
	// stands; empty when there is none.
	DashboardURL string
	// Receiver is the receiver's name in the configuration.
	Receiver string
	// Memory keeps what a notifier must know of an incident at its next delivery;
	// nil forgets at once.
	Memory Memory
	// Desk takes acknowledgements that came from the receiver; nil means that
	// there are none.
	Desk Desk
	// Series draws charts from a run's loss; nil means no charts.
	Series Series
	// Fill fills in a template that the user wrote; nil means that there are none.
	Fill func(text string, d alert.Delivery) (string, error)
	// Answered is told what the receiver said to a try that it took, one line
	// without secrets; nil means that nobody asks.
	Answered func(text string)
}

// Memory is a small durable table of one receiver: what its provider calls the
// message, annotation or alert of an incident. Implementations are safe for
// concurrent use. Keys are those of deliveries.
//
// What is kept under a delivery's key, or "changes/" and an incident's id, goes
// when the incident is let go of for its age.
type Memory interface {
	// Recall gives the value of a key, "" when there is none.
	Recall(ctx context.Context, key string) (string, error)
	// Remember sets the value of a key; "" forgets it. It is durable when it
	// returns.
	Remember(ctx context.Context, key, value string) error
	// All gives every key with its value.
	All(ctx context.Context) (map[string]string, error)
}

// Acknowledgement is a person taking an incident with a button of the
// receiver's.
type Acknowledgement struct {
	Key        string // of the delivery that it answers; may be empty
	IncidentID string
	Receiver   string // through which it came
	By         string // the person as the provider names them; not proved to be anyone here
}

// Desk takes acknowledgements. It gives [fault.NotFound] for an incident that
// there is not; to acknowledge twice, or what is over, is no error.
type Desk interface {
	Acknowledge(ctx context.Context, a Acknowledgement) error
}

// Point is one value of a run's loss.
type Point struct {
	Step int64
	Loss float64 // may be NaN or infinite
}

// Series gives the loss of a run around a time, in the order of the steps.
type Series interface {
	Loss(ctx context.Context, runID string, around time.Time) ([]Point, error)
}

// CallbackPath is where a receiver's callbacks come in, below the control
// plane's address and before the receiver's name.
const CallbackPath = "/hooks/v1/"

// Caller is a notifier whose provider calls back, for instance when someone
// presses a button.
type Caller interface {
	// Callback answers the provider's requests and proves that they are its own;
	// nil when that is not configured.
	Callback() http.Handler
}

// Runner is a notifier with something to do between deliveries. Run returns
// when ctx ends; an error ends alerting.
type Runner interface {
	Run(ctx context.Context) error
}

// Limit is how often a provider may be called: so many a second on average,
// and at most burst at once.
type Limit struct {
	PerSecond float64
	Burst     int
}

// Follower is a notifier that shows what happens to an incident between its
// notifications.
type Follower interface {
	// Follows tells whether it is to be told, with [alert.Story].
	Follows() bool
}

// Limited is a notifier whose provider documents a limit.
type Limited interface {
	Limit() Limit
}

// Recall gives what was remembered under a key, "" when that is nothing.
func (d Deps) Recall(ctx context.Context, key string) (string, error) {
	if d.Memory == nil {
		return "", nil
	}
	return d.Memory.Recall(ctx, key)
}

// Remember notes a value under a key; without a memory it does nothing.
func (d Deps) Remember(ctx context.Context, key, value string) error {
	if d.Memory == nil {
		return nil
	}
	return d.Memory.Remember(ctx, key, value)
}

// Now is the time.
func (d Deps) Now() time.Time {
	if d.Clock == nil {
		return time.Now()
	}
	return d.Clock()
}

// Say tells whoever tests the receiver what it answered.
func (d Deps) Say(text string) {
	if d.Answered != nil {
		d.Answered(text)
	}
}

// Words gives a text of the user's for a delivery, and otherwise where there is
// none. A template that fails is said in the log, and must not keep anybody
// from being told.
func (d Deps) Words(template string, delivery alert.Delivery, otherwise string) string {
	if template == "" || d.Fill == nil {
		return otherwise
	}
	text, err := d.Fill(template, delivery)
	if err != nil {
		d.Log.Warn("a template failed; the notification has Vigil's own words", "receiver", d.Receiver, "error", err)
		return otherwise
	}
	return text
}

// CheckTemplates tells what is wrong with templates of the user's, by filling
// them in with a made-up delivery. The keys are theirs in the configuration.
func (d Deps) CheckTemplates(templates map[string]string) error {
	sample := alert.Delivery{Key: "k", Receiver: d.Receiver, Incident: &controlv1.Incident{IncidentId: "inc-0", RunId: "run", Kind: "test"}}
	for _, key := range slices.Sorted(maps.Keys(templates)) {
		if templates[key] == "" || d.Fill == nil {
			continue
		}
		if _, err := d.Fill(templates[key], sample); err != nil {
			return fault.Mark(fault.Invalid, fmt.Errorf("%s: %w", key, err))
		}
	}
	return nil
}

// RunURL is the page of a run: its dashboard where there is one, else the
// control plane; empty when neither is known.
func (d Deps) RunURL(runID string) string {
	if d.DashboardURL == "" {
		return d.ExternalURL
	}
	return strings.ReplaceAll(d.DashboardURL, "{run}", url.QueryEscape(runID))
}
