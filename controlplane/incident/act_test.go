package incident_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace/noop"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/detect"
	"github.com/vigil-ml/vigil/controlplane/incident"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

type doing func(context.Context, *store.Tx, incident.Act) error

// act has a person do something about the only incident.
func (d *desk) act(do doing, author, comment string) error {
	d.Helper()
	d.now = d.now.Add(time.Second)
	id := d.only().GetIncidentId()
	return d.store.Update(d.Context(), func(tx *store.Tx) error {
		return do(d.Context(), tx, incident.Act{IncidentID: id, Author: author, Comment: comment})
	})
}

func (d *desk) acts(do doing, comment string) {
	d.Helper()
	if err := d.act(do, "ada", comment); err != nil {
		d.Fatal(err)
	}
}

// lately gives the last entries of the only incident's timeline, with their
// authors.
func (d *desk) lately(n int) []string {
	d.Helper()
	all := d.only().GetTimeline()
	var texts []string
	for _, entry := range all[len(all)-n:] {
		texts = append(texts, entry.GetAuthor()+" "+entry.GetAction()+": "+entry.GetText())
	}
	return texts
}

// TestPeopleAct: everything that a person does is told and in the timeline.
func TestPeopleAct(t *testing.T) {
	d := newDesk(t)
	d.begin()
	d.met(0, 41)
	d.acts(d.engine.Acknowledge, "on my way")
	d.acts(d.engine.Acknowledge, "") // changes nothing
	d.same("state", d.only().GetState(), controlv1.IncidentState_INCIDENT_STATE_ACKNOWLEDGED)
	d.same("by", d.only().GetAcknowledgedBy(), "ada")
	d.acts(d.engine.Note, "bad data")
	d.acts(d.engine.Resolve, "skipped it")
	d.acts(d.engine.Resolve, "") // changes nothing
	if err := d.act(d.engine.Acknowledge, "ada", ""); !fault.Is(err, fault.Precondition) {
		t.Errorf("acknowledge what is over: %v", err)
	}
	d.acts(d.engine.Reopen, "")
	d.acts(d.engine.Reopen, "") // changes nothing
	d.same("timeline", d.lately(4), []string{
		"ada acknowledged: ada took it: on my way", "ada note: bad data",
		"ada resolved: ada resolved it: skipped it", "ada reopened: ada reopened it.",
	})
	d.same("told", told(d.only()), []string{
		"hook firing", "slack firing", "hook acknowledged", "slack acknowledged",
		"hook resolved", "slack resolved", "hook firing", "slack firing",
	})
	for what, do := range map[string]doing{"note": d.engine.Note, "resolve": d.engine.Resolve} {
		if err := d.act(do, "", "x"); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s by nobody: %v", what, err)
		}
	}
	if err := d.act(d.engine.Note, "ada", ""); !fault.Is(err, fault.Invalid) {
		t.Errorf("an empty note: %v", err)
	}
}

// TestWorseThanAcknowledged: who took a problem did not take a worse one.
func TestWorseThanAcknowledged(t *testing.T) {
	d := newDesk(t)
	d.begin()
	finding := func(id string, severity commonv1.Severity) *controlv1.Finding {
		return &controlv1.Finding{FindingId: id, RunId: "r", Kind: "straggler", OnsetStep: 41, Severity: severity, Summary: id + "."}
	}
	d.happen(d.event(0, step(41, 1)), finding("slow", commonv1.Severity_SEVERITY_WARNING))
	d.same("nobody is told of a warning", told(d.only()), []string(nil))
	d.acts(d.engine.Acknowledge, "")
	d.same("nor that it is taken", told(d.only()), []string(nil))
	d.happen(d.event(0, step(42, 1)), finding("stuck", commonv1.Severity_SEVERITY_CRITICAL))
	d.same("state", d.only().GetState(), controlv1.IncidentState_INCIDENT_STATE_FIRING)
	d.same("told", told(d.only()), []string{"hook firing", "slack firing"})
}

// TestDetectorSeesNoMore: an incident is over when none of its problems goes
// on, and comes back as the same one.
func TestDetectorSeesNoMore(t *testing.T) {
	d := newDesk(t)
	d.begin()
	finding := func(kind string, onset int64) *controlv1.Finding {
		d.sequence++
		return &controlv1.Finding{FindingId: fmt.Sprint(kind, d.sequence), RunId: "r", Kind: kind, OnsetStep: onset,
			EventTime: timestamppb.New(d.now), Severity: commonv1.Severity_SEVERITY_CRITICAL, Summary: kind + "."}
	}
	d.happen(d.event(0, step(41, 1)), finding("hang", 41), finding("straggler", 41))
	d.over = detect.Standing{Over: []string{"hang"}, Open: []string{"straggler"}}
	d.happen(d.event(0, step(42, 1)))
	d.same("one goes on", d.only().GetState(), controlv1.IncidentState_INCIDENT_STATE_FIRING)
	d.over = detect.Standing{Over: []string{"straggler"}}
	d.happen(d.event(0, step(43, 1)))
	d.same("timeline", d.lately(1), []string{" resolved: At step 43 it is seen no more. It had 2 findings."})
	d.over = detect.Standing{}
	d.happen(d.event(0, step(50, 1)), finding(d.only().GetKind(), 50))
	d.same("the same incident", d.only().GetState(), controlv1.IncidentState_INCIDENT_STATE_FIRING)
	d.happen(d.event(0, step(51, 1)), finding("nonfinite", 51))
	d.over = detect.Standing{Over: []string{"nonfinite", d.only().GetKind()}}
	d.happen(d.event(0, step(52, 1)))
	d.same("a NaN lasts", d.only().GetState(), controlv1.IncidentState_INCIDENT_STATE_FIRING)
}

// TestExpires: an incident of which nothing more is heard is over in the end.
func TestExpires(t *testing.T) {
	d := newDesk(t)
	d.begin()
	d.met(0, 41)
	look := func() {
		t.Helper()
		if err := d.engine.Look(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	d.now = d.now.Add(6 * 24 * time.Hour)
	look()
	d.same("state", d.only().GetState(), controlv1.IncidentState_INCIDENT_STATE_FIRING)
	d.now = d.now.Add(2 * 24 * time.Hour)
	look()
	d.same("timeline", d.lately(1), []string{" resolved: Nothing new was heard of it for a long time."})
}

// external has a Prometheus say something.
func (d *desk) external(a incident.External) {
	d.Helper()
	err := d.store.Update(d.Context(), func(tx *store.Tx) error { return d.engine.Externals(d.Context(), tx, a) })
	if err != nil {
		d.Fatal(err)
	}
}

func (d *desk) all() []*controlv1.Incident {
	d.Helper()
	var all []*controlv1.Incident
	err := d.store.View(d.Context(), func(tx *store.Tx) (err error) { all, err = tx.Incidents("", 0); return err })
	if err != nil {
		d.Fatal(err)
	}
	return all
}

// TestExternal: an alert of a Prometheus opens one incident, is believed for a
// while, and comes back as the same one.
func TestExternal(t *testing.T) {
	d := newDesk(t)
	alert := incident.External{
		Labels:      map[string]string{"alertname": "DiskFull", "severity": "warn", "run": "r"},
		Annotations: map[string]string{"description": "90 %"}, Starts: d.now.Add(-time.Minute),
	}
	d.external(incident.External{Labels: alert.Labels, Ends: d.now}) // over before it was known
	d.same("incidents", len(d.all()), 0)
	for range 3 {
		d.external(alert)
		d.now = d.now.Add(4 * time.Minute)
	}
	alert.Annotations = map[string]string{"summary": "91 %"}
	alert.Starts = alert.Starts.Add(-time.Hour)
	d.external(alert)
	i := d.only()
	d.same("kind", i.GetKind(), "DiskFull")
	d.same("severity", i.GetSeverity(), commonv1.Severity_SEVERITY_WARNING)
	d.same("summary", i.GetSummary(), "91 %")
	d.same("opened", i.GetOpened().AsTime(), alert.Starts)
	d.now = d.now.Add(5*time.Minute + time.Millisecond)
	if err := d.engine.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.same("timeline", d.lately(1), []string{" resolved: Nobody said again that it fires."})
	d.external(alert)
	if last := d.lately(1)[0]; !strings.HasPrefix(last, " reopened: It fires again, for the 2nd time.") {
		t.Errorf("timeline: %s", last)
	}
	alert.Ends = d.now
	d.external(alert)
	d.same("timeline", d.lately(1), []string{" resolved: Its sender says that it is over."})
	d.now, alert.Ends = d.now.Add(time.Hour), time.Time{}
	d.external(alert)
	d.same("long after it is another", len(d.all()), 2)
}

// expect starts the engine anew with what must keep arriving.
func (d *desk) expect(rules []incident.Expect) {
	config := incident.Defaults()
	config.Expect = rules
	d.engine = incident.New(config, incident.Deps{
		Router: d.router, Save: d.save, Store: d.store, Clock: func() time.Time { return d.now }, Log: testkit.Logger(d.TB),
		Tracer: noop.NewTracerProvider().Tracer(""), Metrics: prometheus.NewRegistry(),
	})
}

// TestExpect: what stays away opens an incident, which is over when it comes.
func TestExpect(t *testing.T) {
	d := newDesk(t)
	d.expect([]incident.Expect{{Name: "backup", Ping: "backup", Within: time.Minute}, {Name: "training", Run: "r", Within: time.Minute}})
	look := func(after time.Duration, want ...string) {
		t.Helper()
		d.now = d.now.Add(after)
		if err := d.engine.Look(t.Context()); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, i := range d.all() {
			if i.GetState() == controlv1.IncidentState_INCIDENT_STATE_FIRING {
				got = append(got, i.GetSummary())
			}
		}
		d.same("missing", got, append([]string(nil), want...))
	}
	d.happen(d.event(0, registered))
	look(50 * time.Second)
	d.same("known ping", d.ping("backup"), true)
	d.same("other ping", d.ping("other"), false)
	look(20*time.Second, "Run r stays away: nothing for more than 1m0s.")
	d.happen(d.event(0, step(1, 1)))
	look(0)
	d.happen(d.event(0, runEnded(commonv1.Outcome_OUTCOME_SUCCEEDED)))
	look(2*time.Minute, "Ping backup stays away: nothing for more than 1m0s.")
	look(time.Hour, "Ping backup stays away: nothing for more than 1m0s.")
	d.ping("backup")
	look(0)
}

func (d *desk) ping(name string) bool {
	d.Helper()
	expected, err := d.engine.Ping(d.Context(), name)
	if err != nil {
		d.Fatal(err)
	}
	return expected
}
