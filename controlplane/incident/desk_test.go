package incident_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/alerting/route"
	"github.com/vigil-ml/vigil/controlplane/detect"
	"github.com/vigil-ml/vigil/controlplane/detect/rules"
	"github.com/vigil-ml/vigil/controlplane/fleet"
	"github.com/vigil-ml/vigil/controlplane/incident"
	"github.com/vigil-ml/vigil/controlplane/routing"
	"github.com/vigil-ml/vigil/controlplane/runs"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// start is when every test begins.
var start = time.Date(2026, 3, 1, 3, 12, 0, 0, time.UTC)

// desk is an engine with real parts around it. Its clock is that of the node,
// too.
type desk struct {
	testing.TB
	store    *store.Store
	engine   *incident.Engine
	router   *routing.Router
	fleet    *fleet.Fleet
	bank     *detect.Bank
	registry *prometheus.Registry
	spans    *tracetest.SpanRecorder
	now      time.Time
	saveErr  error                 // what Save gives instead of working
	saveIn   func(*store.Tx) error // what it does before
	judged   []*commonv1.CheckpointJudgement
	sequence uint64
	over     detect.Standing // what ends with the next events
}

func newDesk(t testing.TB) *desk {
	t.Helper()
	d := &desk{TB: t, now: start, registry: prometheus.NewRegistry(), spans: tracetest.NewSpanRecorder()}
	clock := func() time.Time { return d.now }
	var err error
	d.store, err = store.Open(t.Context(), store.Config{Path: filepath.Join(t.TempDir(), "vigil.db")},
		store.Deps{Log: testkit.Logger(t), Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.store.Close() })
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(d.spans)).Tracer("test")
	d.fleet = fleet.New(fleet.Defaults(), fleet.Deps{
		Store: d.store, Log: testkit.Logger(t), Metrics: prometheus.NewRegistry(), Tracer: tracer, Clock: clock,
	})
	plan, err := route.NewPlan(route.Settings{Receivers: map[string]bool{"slack": true, "hook": true}, Order: []string{"slack", "hook"}})
	if err != nil {
		t.Fatal(err)
	}
	router := routing.New(routing.Deps{Plan: plan, Store: d.store, Clock: clock, Log: testkit.Logger(t), Followers: []string{"hook"}})
	d.router = router
	d.engine = incident.New(incident.Defaults(), incident.Deps{
		Router: router, Save: d.save, Judge: d.judge, Store: d.store, Clock: clock, Log: testkit.Logger(t), Tracer: tracer, Metrics: d.registry,
	})
	d.bank = detect.NewBank([]detect.Rule{rules.NonFinite(), rules.Divergence(rules.Defaults().Divergence), rules.Failed()})
	return d
}

func (d *desk) save(tx *store.Tx, request fleet.SaveRequest) (*controlv1.Checkpoint, error) {
	if d.saveIn != nil {
		if err := d.saveIn(tx); err != nil {
			return nil, err
		}
	}
	if d.saveErr != nil {
		return nil, d.saveErr
	}
	return d.fleet.RequestCheckpoint(tx, request)
}

func (d *desk) judge(_ *store.Tx, j *commonv1.CheckpointJudgement) error {
	d.judged = append(d.judged, j)
	return nil
}

// event completes an event of run "r" on node "n1", one millisecond later.
func (d *desk) event(attempt uint32, body func(*commonv1.Event)) *commonv1.Event {
	d.now = d.now.Add(time.Millisecond)
	e := &commonv1.Event{EventId: fmt.Sprint(d.sequence), Time: timestamppb.New(d.now), RunId: "r", Node: "n1", Attempt: attempt}
	body(e)
	return e
}

// happen takes events in as the pipeline does; more are findings of the last
// one beside those that the rules make.
func (d *desk) happen(e *commonv1.Event, more ...*controlv1.Finding) {
	d.Helper()
	if err := d.apply(e, more...); err != nil {
		d.Fatal(err)
	}
}

func (d *desk) apply(e *commonv1.Event, more ...*controlv1.Finding) error {
	return d.take(e, append(d.bank.Observe(e), more...))
}

// happenOnly takes an event in with these findings and none of the rules'.
func (d *desk) happenOnly(e *commonv1.Event, findings ...*controlv1.Finding) {
	d.Helper()
	if err := d.take(e, findings); err != nil {
		d.Fatal(err)
	}
}

func (d *desk) take(e *commonv1.Event, findings []*controlv1.Finding) error {
	return d.store.Update(d.Context(), func(tx *store.Tx) error {
		d.sequence++
		if err := runs.Apply(d.Context(), tx, d.sequence, e); err != nil {
			return err
		}
		for _, f := range findings {
			if _, err := tx.PutFinding(f); err != nil {
				return err
			}
		}
		if err := d.engine.Apply(d.Context(), tx, e, findings); err != nil || len(d.over.Over) == 0 {
			return err
		}
		return d.engine.SeenNoMore(d.Context(), tx, e, d.over)
	})
}

// The bodies of events.

func registered(e *commonv1.Event) {
	e.Body = &commonv1.Event_TrainerRegistered{TrainerRegistered: &commonv1.TrainerRegistered{WorldSize: 1}}
}

func step(n int64, loss float64) func(*commonv1.Event) {
	return func(e *commonv1.Event) {
		e.Body = &commonv1.Event_Step{Step: &commonv1.StepReport{Step: n, Loss: &loss}}
	}
}

func nonFinite(n int64, intact bool) func(*commonv1.Event) {
	return func(e *commonv1.Event) {
		e.Traceparent = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
		e.Body = &commonv1.Event_NonFinite{NonFinite: &commonv1.NonFinite{
			Step: n, Quantity: commonv1.Quantity_QUANTITY_GRADIENT, Tensor: "w1", NanCount: 3, TensorSize: 64, ParametersIntact: intact,
		}}
	}
}

func progress(id string, state commonv1.CheckpointState, step int64) func(*commonv1.Event) {
	return func(e *commonv1.Event) {
		p := &commonv1.CheckpointProgress{CheckpointId: id, State: state, Step: step}
		if state == failed {
			p.Error = "disk full at 100%"
		}
		e.Body = &commonv1.Event_Checkpoint{Checkpoint: p}
	}
}

func attemptEnded(failure commonv1.FailureKind, restarting bool) func(*commonv1.Event) {
	return func(e *commonv1.Event) {
		code := int32(75)
		e.Body = &commonv1.Event_AttemptEnded{AttemptEnded: &commonv1.AttemptEnded{
			ExitCode: &code, Failure: failure, Restarting: restarting, Explanation: "exit code 75 on " + e.GetNode()}}
	}
}

func resumed(id string, n int64) func(*commonv1.Event) {
	return func(e *commonv1.Event) {
		e.Body = &commonv1.Event_Resumed{Resumed: &commonv1.Resumed{CheckpointId: id, Step: n}}
	}
}

func runEnded(outcome commonv1.Outcome) func(*commonv1.Event) {
	return func(e *commonv1.Event) {
		e.Body = &commonv1.Event_RunEnded{RunEnded: &commonv1.RunEnded{Outcome: outcome}}
	}
}

const (
	directed = commonv1.CheckpointState_CHECKPOINT_STATE_DIRECTED
	staged   = commonv1.CheckpointState_CHECKPOINT_STATE_STAGED
	durable  = commonv1.CheckpointState_CHECKPOINT_STATE_DURABLE
	verified = commonv1.CheckpointState_CHECKPOINT_STATE_VERIFIED
	failed   = commonv1.CheckpointState_CHECKPOINT_STATE_FAILED
	nonfin   = commonv1.FailureKind_FAILURE_KIND_NONFINITE
)

// incidents gives the run's incidents, whole, the oldest first.
func (d *desk) incidents() []*controlv1.Incident {
	d.Helper()
	var all []*controlv1.Incident
	err := d.store.View(d.Context(), func(tx *store.Tx) error {
		list, err := tx.Incidents("r", 0)
		for _, i := range list {
			whole, errWhole := tx.Incident(i.GetIncidentId())
			all = append([]*controlv1.Incident{whole}, all...)
			err = errors.Join(err, errWhole)
		}
		return err
	})
	if err != nil {
		d.Fatal(err)
	}
	return all
}

// only gives the run's only incident.
func (d *desk) only() *controlv1.Incident {
	d.Helper()
	all := d.incidents()
	if len(all) != 1 {
		d.Fatalf("there are %d incidents, want one", len(all))
	}
	return all[0]
}

func (d *desk) commands() []store.Command {
	d.Helper()
	var all []store.Command
	err := d.store.View(d.Context(), func(tx *store.Tx) (err error) {
		all, err = tx.OpenCommands("")
		return err
	})
	if err != nil {
		d.Fatal(err)
	}
	return all
}

// told gives what was or will be told, as "receiver state".
func told(i *controlv1.Incident) []string {
	var all []string
	for _, n := range i.GetNotifications() {
		all = append(all, n.GetReceiver()+" "+strings.ToLower(strings.TrimPrefix(n.GetIncidentState().String(), "INCIDENT_STATE_")))
	}
	return all
}

func timeline(i *controlv1.Incident) []string {
	var all []string
	for _, e := range i.GetTimeline() {
		all = append(all, fmt.Sprintf("+%d %s: %s", e.GetTime().AsTime().Sub(i.GetOpened().AsTime()).Milliseconds(), e.GetAction(), e.GetText()))
	}
	return all
}

func (d *desk) same(what string, got, want any) {
	d.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		d.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// begin has a run that trained to step 40 with a verified checkpoint of 30.
func (d *desk) begin() {
	d.happen(d.event(0, registered))
	for n := int64(1); n <= 40; n++ {
		d.happen(d.event(0, step(n, 1)))
	}
	d.happen(d.event(0, progress("c30", verified, 30)))
}
