package routing

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace/noop"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/alerting"
	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/controlplane/incident"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/testkit"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// desk is a router and an engine on a store, with a clock that stands still
// until it is told to go on.
type desk struct {
	testing.TB
	store  *store.Store
	router *Router
	engine *incident.Engine
	now    time.Time
}

// newDesk makes one with the `alerting:` part of a configuration.
func newDesk(t testing.TB, config string, receivers ...string) *desk {
	t.Helper()
	d := &desk{TB: t, now: time.Date(2026, 3, 1, 3, 12, 0, 0, time.UTC)}
	clock := func() time.Time { return d.now }
	var err error
	d.store, err = store.Open(t.Context(), store.Config{Path: filepath.Join(t.TempDir(), "vigil.db")},
		store.Deps{Log: testkit.Logger(t), Clock: clock})
	d.must(err)
	t.Cleanup(func() { _ = d.store.Close() })
	d.configure(config, receivers...)
	return d
}

func newConfig(t testing.TB, text string) alerting.Config {
	t.Helper()
	c := alerting.Defaults()
	if err := conf.Decode("alerting.yaml", []byte(text), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// configure starts with another configuration on the same store.
func (d *desk) configure(config string, receivers ...string) {
	d.Helper()
	plan, err := newConfig(d.TB, config).Plan(receivers)
	d.must(err)
	clock := func() time.Time { return d.now }
	d.router = New(Deps{Plan: plan, Store: d.store, Clock: clock, Log: testkit.Logger(d.TB)})
	d.engine = incident.New(incident.Defaults(), incident.Deps{
		Router: d.router, Store: d.store, Clock: clock, Log: testkit.Logger(d.TB), Metrics: prometheus.NewRegistry(),
		Tracer: noop.NewTracerProvider().Tracer(""),
	})
	d.must(d.store.Update(d.Context(), func(tx *store.Tx) error { return d.router.begin(d.Context(), tx) }))
}

func (d *desk) must(err error) {
	d.Helper()
	if err != nil {
		d.Fatal(err)
	}
}

func (d *desk) same(what string, got, want any) {
	d.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		d.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// wait lets time pass, second by second, as the router's loop would.
func (d *desk) wait(long time.Duration) {
	d.Helper()
	for end := d.now.Add(long); d.now.Before(end); {
		d.now = d.now.Add(min(time.Second, end.Sub(d.now)))
		_, err := d.router.due(d.Context())
		d.must(err)
	}
}

// alert has external alerts fire, or end, all in one request: "X fires i=1".
func (d *desk) alert(texts ...string) {
	d.Helper()
	var all []incident.External
	for _, text := range texts {
		words := strings.Fields(text)
		a := incident.External{Labels: map[string]string{"alertname": words[0]}, Ends: d.now.Add(1000 * time.Hour)}
		for _, word := range words[2:] {
			name, value, _ := strings.Cut(word, "=")
			a.Labels[name] = value
		}
		if words[1] == "ends" {
			a.Ends = d.now
		}
		all = append(all, a)
	}
	d.must(d.store.Update(d.Context(), func(tx *store.Tx) error { return d.engine.Externals(d.Context(), tx, all...) }))
}

// act does something about the newest incident.
func (d *desk) act(do func(*store.Tx, incident.Act) error) {
	d.Helper()
	d.must(d.store.Update(d.Context(), func(tx *store.Tx) error {
		all, err := tx.Incidents("", 1)
		return errors.Join(err, do(tx, incident.Act{IncidentID: all[0].GetIncidentId(), Author: "ada"}))
	}))
}

func (d *desk) acknowledge() {
	d.Helper()
	d.act(func(tx *store.Tx, a incident.Act) error { return d.engine.Acknowledge(d.Context(), tx, a) })
}

// told gives what is new in the outbox: "receiver state alerts", in order, with
// R behind an alert that is over.
func (d *desk) told(want ...string) {
	d.Helper()
	var got []string
	for {
		due, err := d.store.Outbox().Lease(d.Context(), 100, time.Hour)
		d.must(err)
		for _, one := range due {
			text := one.Receiver + " " + strings.ToLower(strings.TrimPrefix(one.State.String(), "INCIDENT_STATE_"))
			for _, a := range one.Alerts() {
				text += " " + a.Labels["alertname"] + a.Labels["i"]
				if a.Resolved() {
					text += "R"
				}
			}
			got = append(got, text)
			d.must(d.deliver(one.ID))
		}
		if len(due) == 0 {
			break
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		d.Errorf("at +%v told (-want +got):\n%s", d.now.Sub(time.Date(2026, 3, 1, 3, 12, 0, 0, time.UTC)), diff)
	}
}

func (d *desk) deliver(id string) error {
	return d.store.Outbox().Settle(d.Context(), alert.Outcome{ID: id, Result: alert.Delivered, At: d.now})
}

func (d *desk) silence(text string, long time.Duration) string {
	d.Helper()
	name, value, _ := strings.Cut(text, "=")
	var made *controlv1.Silence
	d.must(d.store.Update(d.Context(), func(tx *store.Tx) (err error) {
		made, err = d.router.SetSilence(tx, &controlv1.Silence{
			Matchers: []*controlv1.Matcher{{Name: name, Value: value, Operator: controlv1.MatchOperator_MATCH_OPERATOR_EQUAL}},
			Ends:     timestamppb.New(d.now.Add(long)), Author: "ada", Comment: "known",
		})
		return err
	}))
	return made.GetSilenceId()
}

// timeline gives the actions in the newest incident's timeline.
func (d *desk) timeline() []string {
	d.Helper()
	var all []string
	d.must(d.store.View(d.Context(), func(tx *store.Tx) error {
		listed, err := tx.Incidents("", 1)
		if err != nil {
			return err
		}
		whole, err := tx.Incident(listed[0].GetIncidentId())
		for _, entry := range whole.GetTimeline() {
			all = append(all, fmt.Sprintf("%s: %s", entry.GetAction(), entry.GetText()))
		}
		return err
	}))
	return all
}
