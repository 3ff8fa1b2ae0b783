package export_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"

	"github.com/vigil-ml/vigil/controlplane/audit"
	"github.com/vigil-ml/vigil/controlplane/audit/trail"
	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/controlplane/export"
	"github.com/vigil-ml/vigil/controlplane/export/elastic"
	"github.com/vigil-ml/vigil/controlplane/export/elastic/elastictest"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/testkit"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		os.Exit(code)
	}))
}

// plane is what of a control plane an exporter needs, in one directory.
type plane struct {
	t       *testing.T
	dir     string
	limits  export.Limits
	trouble *trouble

	bus    *bus.Bus
	store  *store.Store
	audit  *audit.Log
	runner *export.Runner
	stop   func()
	next   uint64
}

// trouble counts what people would be told.
type trouble struct{ failing, well atomic.Int64 }

func (t *trouble) ExporterFailing(context.Context, string, string, time.Time) error {
	t.failing.Add(1)
	return nil
}
func (t *trouble) ExporterWell(context.Context, string, time.Time) error { t.well.Add(1); return nil }

func newPlane(t *testing.T) *plane {
	return &plane{t: t, dir: t.TempDir(), trouble: &trouble{}, limits: export.Limits{
		MaxAge: time.Hour, DeadBytes: 1 << 20,
		Streams: map[string]bool{export.StreamEvents: true, export.StreamFindings: true, export.StreamIncidents: true},
	}}
}

// newWholePlane exports every stream.
func newWholePlane(t *testing.T) *plane {
	p := newPlane(t)
	for _, stream := range export.Streams() {
		p.limits.Streams[stream] = true
	}
	return p
}

// start opens the parts and runs an exporter until stop.
func (p *plane) start(exporter export.Exporter, clock func() time.Time) {
	p.t.Helper()
	log := testkit.Logger(p.t)
	var err error
	config := bus.Defaults(filepath.Join(p.dir, "bus"))
	config.Sync, config.MaxBytes = bus.SyncInterval, 64<<20
	if p.bus, err = bus.Open(p.t.Context(), config, bus.Deps{Log: log, Metrics: prometheus.NewRegistry()}); err != nil {
		p.t.Fatal(err)
	}
	p.store, err = store.Open(p.t.Context(), store.Config{Path: filepath.Join(p.dir, "vigil.db")}, store.Deps{Log: log, Exports: true})
	if err != nil {
		p.t.Fatal(err)
	}
	p.audit, err = audit.Open(p.t.Context(), audit.Defaults(filepath.Join(p.dir, "audit")), audit.Deps{
		Store: p.store, Log: log, Metrics: prometheus.NewRegistry(), Clock: time.Now,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.runner = export.NewRunner(p.limits, export.RunnerDeps{
		Name: "search", Kind: "elastic", Exporter: exporter, Bus: p.bus, Store: p.store, Audit: p.audit, Dir: filepath.Join(p.dir, "exports"),
		Trouble: p.trouble, Metrics: export.NewMetrics(prometheus.NewRegistry()), Log: log, Clock: clock,
	})
	group := life.NewGroup(context.WithoutCancel(p.t.Context()))
	group.Go("exporter", p.runner.Run)
	stopped := false
	p.stop = func() {
		if stopped {
			return
		}
		stopped = true
		group.Stop()
		if err := group.Wait(); err != nil {
			p.t.Error(err)
		}
		_ = exporter.Close()
		p.bus.Close()
		if err := p.store.Close(); err != nil {
			p.t.Error(err)
		}
	}
	p.t.Cleanup(p.stop)
}

// publish puts frames on the bus, of five events, two lines of a log and a span
// each, and into the store a finding, two states of an incident, an audit record,
// and of what a control plane says of itself a line, a span and its metrics.
func (p *plane) publish(frames int) {
	p.t.Helper()
	for range frames {
		p.next++
		batch := &agentv1.EventBatch{RunId: "r"}
		for i := range 5 {
			step := int64(p.next)*5 + int64(i)
			batch.Events = append(batch.Events, &commonv1.Event{
				EventId: fmt.Sprintf("e-%d-%d", p.next, i), RunId: "r", Node: "n", Time: timestamppb.Now(),
				Body: &commonv1.Event_Step{Step: &commonv1.StepReport{Step: step, Loss: new(0.5)}},
			})
		}
		batch.Events = append(batch.Events, &commonv1.Event{
			EventId: fmt.Sprintf("l-%d", p.next), RunId: "r", Rank: 3, Node: "n", Time: timestamppb.Now(),
			Body: &commonv1.Event_Logs{Logs: &commonv1.LogBatch{Records: []*commonv1.LogRecord{
				{Level: "INFO", Logger: "train", Message: "epoch begins"},
				{Level: "ERROR", Message: "a worker died", ErrorType: "OSError", Attributes: map[string]string{"worker": "7"}},
			}}},
		}, &commonv1.Event{
			EventId: fmt.Sprintf("s-%d", p.next), RunId: "r", Node: "n", Time: timestamppb.Now(),
			Body: &commonv1.Event_Telemetry{Telemetry: spanOf(p.t, "vigil.save", p.next)},
		})
		_, err := p.bus.Publish(p.t.Context(), bus.Message{
			Node: "n", Position: &agentv1.Position{Epoch: 1, Sequence: p.next}, Received: time.Now(), Batch: batch,
		})
		if err != nil {
			p.t.Fatal(err)
		}
	}
	err := p.store.Update(p.t.Context(), func(tx *store.Tx) error {
		name := fmt.Sprint("f-", p.next)
		for n, said := range []*commonv1.Telemetry{spanOf(p.t, "vigil.detect", p.next), lineOf(p.t, "control plane is up"), gaugeOf(p.t)} {
			if err := tx.RecordTelemetry(fmt.Sprintf("t-%d-%d", p.next, n), said); err != nil {
				return err
			}
		}
		if err := p.audit.Append(tx, trail.Record{
			Class: trail.Act, Actor: trail.Actor{Kind: "token", ID: "ci"}, Action: "vigil.control.v1.IncidentService/ResolveIncident",
			Object: map[string]string{"incident_id": "i-1"}, Outcome: "ok",
		}); err != nil {
			return err
		}
		if _, err := tx.PutFinding(&controlv1.Finding{FindingId: name, RunId: "r", Kind: "nonfinite", Summary: "a NaN"}); err != nil {
			return err
		}
		i := &controlv1.Incident{IncidentId: "i-" + name, RunId: "r", Kind: "nonfinite"}
		for _, state := range []controlv1.IncidentState{1, 1, 3} {
			i.State = state
			if err := tx.PutIncident(store.IncidentRecord{Incident: i}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

func elasticAt(t *testing.T, url string) export.Exporter {
	t.Helper()
	config := elastic.Defaults()
	config.Addresses = []string{url}
	made, err := elastic.New(config, export.Deps{Name: "search", Version: "test", Log: testkit.Logger(t), Clock: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// TestNothingIsLostOrDoubledOverAnOutage holds that every document is there
// afterwards, once: the server is away, the control plane restarts meanwhile,
// answers are cut behind their effect, and an index rolls over in between.
func TestNothingIsLostOrDoubledOverAnOutage(t *testing.T) {
	fake := elastictest.New(t)
	p := newWholePlane(t)
	var asked atomic.Int64
	away := func(r *http.Request) (int, bool) { asked.Add(1); return 503, false }
	fake.Fail(away)
	p.start(elasticAt(t, fake.URL()), time.Now)
	p.publish(100)
	testkit.Eventually(t, "some tries", func() bool { return asked.Load() >= 3 })
	p.stop()

	p.start(elasticAt(t, fake.URL()), time.Now)
	p.publish(100)
	asked.Store(0)
	testkit.Eventually(t, "tries after the restart", func() bool { return asked.Load() >= 2 })
	cut := func(r *http.Request) (int, bool) { // takes everything, and nobody learns of it
		if strings.Contains(r.URL.Path, "_bulk") {
			asked.Add(1)
			return 502, true
		}
		return 0, false
	}
	asked.Store(0)
	fake.Fail(cut)
	testkit.Eventually(t, "a cut answer", func() bool { return asked.Load() >= 1 })
	p.stop()

	response, err := http.Post(fake.URL()+"/logs-vigil.events-default/_rollover", "application/json", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	fake.Fail(nil)
	p.start(elasticAt(t, fake.URL()), time.Now)
	p.publish(50)
	want := map[string]int{"events": 250 * 5, "findings": 3, "incidents": 6, "audit": 3, "logs": 250*2 + 3}
	for stream, n := range want {
		name := "logs-vigil." + stream + "-default"
		testkit.Eventually(t, name, func() bool { byID, _ := fake.Documents(name); return len(byID) >= n })
		byID, count := fake.Documents(name)
		if len(byID) != n || count != n {
			t.Errorf("%s has %d ids and %d documents, want %d", name, len(byID), count, n)
		}
	}
	status, err := p.runner.Status(t.Context())
	if err != nil || status.Dead != 0 {
		t.Errorf("status %+v, %v", status, err)
	}
	testkit.Eventually(t, "cursors at the end", func() bool {
		status, err := p.runner.Status(t.Context())
		return err == nil && status.Cursors["events"] == 250 && status.Cursors["records"] == 18 && status.Cursors["audit"] == 3
	})
	lines, _ := fake.Documents("logs-vigil.logs-default")
	line := lines["l-7-1"]
	for path, want := range map[string]any{
		"message": "a worker died", "log.level": "error", "error.type": "OSError", "host.name": "n", "vigil.run": "r",
		"vigil.rank": 3.0, "vigil.body.worker": "7", "event.dataset": "vigil.logs",
	} {
		if got := at(line, path); got != want {
			t.Errorf("%s is %v, want %v", path, got, want)
		}
	}
}

// TestElasticsearchHoldsACopyOfTheAuditLog holds that the audit stream is a copy
// that a verifier takes, and that shows what was cut off the log.
func TestElasticsearchHoldsACopyOfTheAuditLog(t *testing.T) {
	fake, p := elastictest.New(t), newWholePlane(t)
	p.start(elasticAt(t, fake.URL()), time.Now)
	for range 3 {
		p.publish(1)
	}
	testkit.Eventually(t, "the records", func() bool { _, n := fake.Documents("logs-vigil.audit-default"); return n == 3 })
	config := elastic.Defaults()
	config.Addresses = []string{fake.URL()}
	var copied, log bytes.Buffer
	if err := elastic.ReadAudit(t.Context(), config, "", &copied); err != nil {
		t.Fatal(err)
	}
	if err := p.audit.Export(t.Context(), func(text []byte) error { _, err := log.Write(text); return err }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(log.String(), copied.String()); diff != "" {
		t.Errorf("the copy is not the log:\n%s", diff)
	}
	lines := bytes.SplitAfter(log.Bytes(), []byte("\n"))
	cut := bytes.Join(lines[:3], nil)
	for what, tc := range map[string]struct {
		log []byte
		bad bool
	}{"whole": {log.Bytes(), false}, "cut off": {cut, true}} {
		report, err := trail.Verify(bytes.NewReader(tc.log), trail.Options{Key: p.audit.PublicKey(), Copy: bytes.NewReader(copied.Bytes())})
		if err != nil || (report.Bad != nil) != tc.bad || tc.bad && report.Bad.Index != 2 {
			t.Errorf("the log %s, against the copy: %+v, %v", what, report, err)
		}
	}
	if err := elastic.ReadAudit(t.Context(), config, "vigil/audit/another+0+A", &copied); !fault.Is(err, fault.NotFound) {
		t.Errorf("a log that is not there: %v", err)
	}
}

// at gives what is at a path of names with dots between.
func at(document map[string]any, path string) any {
	var here any = document
	for name := range strings.SplitSeq(path, ".") {
		object, _ := here.(map[string]any)
		here = object[name]
	}
	return here
}
