package alerting

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Test sends one made-up incident to a receiver, and its end where the first
// arrived, past the queue, the limit and the breaker. It gives what the
// receiver said to each. The error is that of the try; [fault.NotFound] when
// there is no such receiver.
func (a *Alerting) Test(ctx context.Context, name string) (answers []string, err error) {
	c, ok := a.receivers[name]
	if !ok {
		return nil, fault.New(fault.NotFound, "there is no receiver %q; there are %s", name, strings.Join(a.names, ", "))
	}
	deps := c.deps
	deps.Answered = func(text string) { answers = append(answers, text) }
	notifier, err := c.build(deps)
	if err != nil {
		return nil, fmt.Errorf("build receiver %s: %w", name, err)
	}
	for _, d := range testDeliveries(name, a.deps.Clock()) {
		tryCtx, cancel := context.WithTimeout(ctx, a.config.TryTimeout)
		err := notifier.Notify(tryCtx, d)
		cancel()
		if err != nil {
			return answers, err
		}
	}
	return answers, nil
}

// testDeliveries is an incident that nobody has: it begins and is over.
func testDeliveries(receiver string, now time.Time) []alert.Delivery {
	id := fmt.Sprintf("test-%d", now.UnixNano())
	incident := func(state controlv1.IncidentState) *controlv1.Incident {
		return &controlv1.Incident{
			IncidentId: id, RunId: "vigil-test", Kind: "test", Severity: commonv1.Severity_SEVERITY_INFO, State: state,
			Summary: "This is a test of the receiver " + receiver + ". Nothing is wrong, and nothing has to be done.",
			Opened:  timestamppb.New(now),
		}
	}
	first := alert.Delivery{
		ID: id + "/" + receiver + "/1", Receiver: receiver, Key: id + "/" + receiver, Created: now,
		State: controlv1.IncidentState_INCIDENT_STATE_FIRING, Incident: incident(controlv1.IncidentState_INCIDENT_STATE_FIRING),
		Occasion: alert.First,
	}
	last := first
	last.ID, last.State, last.Occasion = id+"/"+receiver+"/2", controlv1.IncidentState_INCIDENT_STATE_RESOLVED, alert.Over
	last.Incident = incident(last.State)
	last.Incident.Resolved = timestamppb.New(now)
	return []alert.Delivery{first, last}
}

// Status is how a receiver is.
type Status struct {
	Name, Kind, Fallback string
	// Failing since a time, with what it said last; zero and empty when it is
	// well.
	Failing bool
	Since   time.Time
	Cause   string
	// PausedUntil is when it is tried next, because it asked for that or its
	// breaker is open; zero when nothing holds it.
	PausedUntil time.Time
}

// Statuses gives how every receiver is, in the order of the configuration.
func (a *Alerting) Statuses() []Status {
	now := a.deps.Clock()
	var all []Status
	for _, name := range a.names {
		c := a.receivers[name]
		c.mu.Lock()
		s := Status{Name: c.name, Kind: c.kind, Fallback: c.fallback, Failing: c.health.failing, Since: c.health.since, Cause: c.health.cause}
		for _, until := range []time.Time{c.resume, c.broken} {
			if until.After(now) && until.After(s.PausedUntil) {
				s.PausedUntil = until
			}
		}
		c.mu.Unlock()
		all = append(all, s)
	}
	return all
}

// Callbacks answers what providers send back, each below
// [notify.CallbackPath] and its receiver's name.
func (a *Alerting) Callbacks() http.Handler {
	mux := http.NewServeMux()
	for _, name := range a.names {
		if caller, ok := a.receivers[name].notifier.(notify.Caller); ok {
			if handler := caller.Callback(); handler != nil {
				mux.Handle("POST "+notify.CallbackPath+name, http.MaxBytesHandler(handler, 1<<20))
			}
		}
	}
	return mux
}
