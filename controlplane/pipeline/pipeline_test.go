package pipeline

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/alerting/route"
	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/controlplane/detect"
	"github.com/vigil-ml/vigil/controlplane/detect/rules"
	"github.com/vigil-ml/vigil/controlplane/fleet"
	"github.com/vigil-ml/vigil/controlplane/incident"
	"github.com/vigil-ml/vigil/controlplane/routing"
	"github.com/vigil-ml/vigil/controlplane/store"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errPlanted = errors.New("planted")

// fakeBus holds frames. With a random source it is an unkind one: batches of
// any size, frames handed over again, errors of its own.
type fakeBus struct {
	frames []bus.Delivery
	random *rand.Rand
	end    context.CancelFunc // called when all frames were handled
	from   []uint64           // where each reader began
}

func (b *fakeBus) Consume(ctx context.Context, from uint64, handle func(context.Context, []bus.Delivery) error) error {
	b.from = append(b.from, from)
	first := 0
	for first < len(b.frames) && b.frames[first].Sequence < from {
		first++
	}
	for at := first; at < len(b.frames); {
		size := 7
		if b.random != nil {
			at = max(first, at-b.random.IntN(4))
			size = 1 + b.random.IntN(12)
			if b.random.IntN(300) == 0 {
				return errPlanted
			}
		}
		end := min(len(b.frames), at+size)
		batch := slices.Clone(b.frames[at:end])
		if b.random != nil && b.random.IntN(3) == 0 {
			batch = append(batch, batch[len(batch)-1])
		}
		if err := handle(ctx, batch); err != nil {
			return err
		}
		at = end
	}
	b.end()
	<-ctx.Done()
	return nil
}

// badStore fails now and then: before a transaction, at its end, and after it
// was committed, when nobody can know that it was.
type badStore struct {
	*store.Store
	random *rand.Rand
	failed int
}

func (s *badStore) Update(ctx context.Context, do func(*store.Tx) error) error {
	fail := s.random.IntN(9)
	if fail < 3 {
		s.failed++
	}
	switch fail {
	case 0:
		return errPlanted
	case 1:
		return s.Store.Update(ctx, func(tx *store.Tx) error { return errors.Join(do(tx), errPlanted) })
	case 2:
		return errors.Join(s.Store.Update(ctx, do), errPlanted)
	}
	return s.Store.Update(ctx, do)
}

// badIncidents fails in the middle of a transaction.
type badIncidents struct {
	Incidents
	random *rand.Rand
}

func (i *badIncidents) Apply(ctx context.Context, tx *store.Tx, event *commonv1.Event, findings []*controlv1.Finding) error {
	err := i.Incidents.Apply(ctx, tx, event, findings)
	if i.random.IntN(60) == 0 {
		return errPlanted
	}
	return err
}

func clock() time.Time { return start }

// save is the fleet's RequestCheckpoint with ids that do not differ from one
// pipeline to the other.
func save(tx *store.Tx, r fleet.SaveRequest) (*controlv1.Checkpoint, error) {
	c := &controlv1.Checkpoint{CheckpointId: "c/" + r.IdempotencyKey, RunId: r.RunID, Reason: r.Reason,
		State:  commonv1.CheckpointState_CHECKPOINT_STATE_REQUESTED,
		Stages: []*controlv1.StageTime{{State: commonv1.CheckpointState_CHECKPOINT_STATE_REQUESTED, Time: timestamppb.New(start)}}}
	if first, err := tx.Checkpoint(c.GetCheckpointId()); err == nil {
		return first, nil
	}
	_, err := tx.InsertCommand(store.Command{ID: r.IdempotencyKey, IdempotencyKey: r.IdempotencyKey, RunID: r.RunID, Wire: &agentv1.Command{}})
	return c, errors.Join(err, tx.PutCheckpoint(c))
}

// setup gives a pipeline over a store, ready to run.
func setup(t testing.TB, path string, frames *fakeBus) (*Pipeline, *store.Store) {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	s, err := store.Open(t.Context(), store.Config{Path: path}, store.Deps{Log: quiet, Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	registry, tracer := prometheus.NewRegistry(), noop.NewTracerProvider().Tracer("")
	plan, err := route.NewPlan(route.Settings{Receivers: map[string]bool{"hook": true}, Order: []string{"hook"}})
	if err != nil {
		t.Fatal(err)
	}
	router := routing.New(routing.Deps{Plan: plan, Store: s, Clock: clock, Log: quiet})
	engine := incident.New(incident.Defaults(), incident.Deps{
		Router: router, Save: save, Store: s, Clock: clock, Log: quiet, Tracer: tracer, Metrics: registry,
	})
	p := New(Deps{
		Bus: frames, Store: s, Incidents: engine, Clock: clock, Log: quiet, Tracer: tracer, Metrics: registry,
		NewBank: func() Bank {
			return detect.NewBank([]detect.Rule{rules.NonFinite(), rules.Divergence(rules.Defaults().Divergence), rules.Crash()}).
				WatchNodes(rules.Nodes(rules.Defaults().Nodes))
		},
	})
	p.retry = time.Microsecond
	return p, s
}

// run runs a pipeline until its bus is at the end.
func run(t testing.TB, p *Pipeline) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p.deps.Bus.(*fakeBus).end = cancel
	if err := p.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		t.Fatal("the pipeline did not come to the end of the bus")
	}
}

// dump gives every row of every table as text.
func dump(t testing.TB, path string) string {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var out strings.Builder
	for _, table := range []string{"runs", "attempts", "checkpoints", "checkpoint_ranks", "checkpoint_stages", "commands",
		"findings", "incidents", "timeline", "incident_checkpoints", "outbox", "cursors", "node_problems"} {
		rows, err := db.Query("SELECT * FROM " + table + " ORDER BY 1, 2")
		if err != nil {
			t.Fatal(err)
		}
		columns, err := rows.Columns()
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			values, into := make([]any, len(columns)), make([]any, len(columns))
			for i := range values {
				into[i] = &values[i]
			}
			if err := rows.Scan(into...); err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&out, "%s %q\n", table, values)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return out.String()
}

// TestExactlyOnce compares an undisturbed pipeline with one whose bus, store
// and incidents fail at random: every row of the two stores is the same.
func TestExactlyOnce(t *testing.T) {
	failures := 0
	for seed := range uint64(6) {
		frames := write(seed, 6)
		calm := filepath.Join(t.TempDir(), "calm.db")
		p, s := setup(t, calm, &fakeBus{frames: frames})
		run(t, p)

		rough := filepath.Join(t.TempDir(), "rough.db")
		random := rand.New(rand.NewPCG(seed, 2))
		unkind := &fakeBus{frames: frames, random: random}
		q, r := setup(t, rough, unkind)
		bad := &badStore{Store: r, random: random}
		q.deps.Store, q.deps.Incidents = bad, &badIncidents{q.deps.Incidents, random}
		run(t, q)
		failures += bad.failed
		if err := errors.Join(s.Close(), r.Close()); err != nil {
			t.Fatal(err)
		}
		want, got := dump(t, calm), dump(t, rough)
		if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")); diff != "" {
			t.Fatalf("seed %d: (-undisturbed +disturbed):\n%s", seed, diff)
		}
		for _, part := range []string{"findings ", "incidents ", "outbox ", "commands ", "divergence", "nonfinite"} {
			if !strings.Contains(want, part) {
				t.Errorf("seed %d: the story has no %s", seed, part)
			}
		}
	}
	if failures < 20 {
		t.Errorf("only %d failures happened: the test shows nothing", failures)
	}
}

// TestRestart stops the pipeline after each batch and starts it anew over the
// same store, as a control plane that is killed again and again.
func TestRestart(t *testing.T) {
	frames := write(7, 4)
	calm := filepath.Join(t.TempDir(), "calm.db")
	p, s := setup(t, calm, &fakeBus{frames: frames})
	run(t, p)
	restarted := filepath.Join(t.TempDir(), "restarted.db")
	for end := 0; end < len(frames); end += 11 {
		q, r := setup(t, restarted, &fakeBus{frames: frames[:min(end+11, len(frames))]})
		run(t, q)
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(dump(t, calm), "\n"), strings.Split(dump(t, restarted), "\n")); diff != "" {
		t.Fatalf("(-undisturbed +restarted):\n%s", diff)
	}
}

// TestFrom checks where the bus is read from: behind the cursor, or at the
// first frame of a run that goes on.
func TestFrom(t *testing.T) {
	over := func(run string) *commonv1.Event {
		return &commonv1.Event{RunId: run, Body: &commonv1.Event_RunEnded{RunEnded: &commonv1.RunEnded{}}}
	}
	s := &story{random: rand.New(rand.NewPCG(1, 1))}
	s.frame("a", 0, 0, registered(1))
	s.frame("b", 0, 0, registered(1))
	s.frame("a", 0, 0, over("a"))
	last := s.frames[2].Sequence
	path := filepath.Join(t.TempDir(), "vigil.db")
	frames := &fakeBus{frames: s.frames}
	p, _ := setup(t, path, frames)
	run(t, p)
	run(t, p)
	s.frame("b", 0, 0, over("b"))
	frames.frames = s.frames
	run(t, p)
	run(t, p)
	want := []uint64{1, s.frames[1].Sequence, s.frames[1].Sequence, s.frames[3].Sequence + 1}
	if diff := cmp.Diff(want, frames.from); diff != "" || last == 0 {
		t.Errorf("began at (-want +got):\n%s", diff)
	}
}

// countingBank counts what it is shown, by event.
type countingBank map[string]int

func (b countingBank) Observe(e *commonv1.Event) []*controlv1.Finding {
	b[e.GetEventId()]++
	return nil
}

func (b countingBank) Standing() detect.Standing { return detect.Standing{} }

// TestRepeats hands frames over again, within a batch and in the next one:
// the detectors see each event once.
func TestRepeats(t *testing.T) {
	p, _ := setup(t, filepath.Join(t.TempDir(), "vigil.db"), nil)
	f := write(1, 1)
	bank := countingBank{}
	r := &reader{Pipeline: p, bank: bank}
	for _, batch := range [][]bus.Delivery{{f[0], f[0], f[1], f[0]}, {f[1], f[2]}, {f[0], f[1], f[2]}} {
		if err := r.handle(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	want := countingBank{}
	for _, frame := range f[:3] {
		for _, e := range frame.Batch.GetEvents() {
			want[e.GetEventId()] = 1
		}
	}
	if diff := cmp.Diff(want, bank); diff != "" {
		t.Errorf("seen (-want +got):\n%s", diff)
	}
}

func (countingBank) Ended() []*controlv1.Finding  { return nil }
func (countingBank) Restore([]*controlv1.Finding) {}

// countingHandler counts log records by level.
type countingHandler struct {
	slog.Handler
	errors atomic.Int64
}

func (h *countingHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h *countingHandler) Handle(_ context.Context, r slog.Record) error {
	if r.Level == slog.LevelError {
		h.errors.Add(1)
	}
	return nil
}

// fussyStore fails the first Updates.
type fussyStore struct {
	*store.Store
	left    int
	healthy func() error
	seen    []error
}

func (s *fussyStore) Update(ctx context.Context, do func(*store.Tx) error) error {
	s.seen = append(s.seen, s.healthy())
	if s.left--; s.left >= 0 {
		return errPlanted
	}
	return s.Store.Update(ctx, do)
}

func TestLogsOnce(t *testing.T) {
	p, s := setup(t, filepath.Join(t.TempDir(), "vigil.db"), &fakeBus{frames: write(1, 1)})
	log := &countingHandler{Handler: slog.DiscardHandler}
	fussy := &fussyStore{Store: s, left: 5, healthy: p.Healthy}
	p.deps.Log, p.deps.Store = slog.New(log), fussy
	run(t, p)
	if n := log.errors.Load(); n != 1 {
		t.Errorf("%d errors were logged for five failures in a row, want 1", n)
	}
	if fussy.seen[0] != nil || !errors.Is(fussy.seen[1], errPlanted) || p.Healthy() != nil {
		t.Errorf("health was %v, then %v, and at the end %v", fussy.seen[0], fussy.seen[1], p.Healthy())
	}
}

func TestMetricsAndSpans(t *testing.T) {
	frames := write(3, 4)
	p, _ := setup(t, filepath.Join(t.TempDir(), "vigil.db"), &fakeBus{frames: frames})
	registry, spans := prometheus.NewRegistry(), tracetest.NewSpanRecorder()
	p.metrics = newMetrics(registry)
	p.deps.Tracer = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("")
	run(t, p)
	events, traced := 0, 0
	for _, frame := range frames {
		for _, e := range frame.Batch.GetEvents() {
			events++
			if e.GetTraceparent() != "" {
				traced++
			}
		}
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			got[family.GetName()] += m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	want := map[string]float64{
		"vigil_control_events_total": float64(events), "vigil_control_pipeline_lag_seconds": float64(len(frames)),
		"vigil_control_findings_total": 3, "vigil_control_detect_seconds": 3,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
	inTrace, began := 0, map[string]bool{}
	for _, span := range spans.Ended() {
		switch parent := span.Parent(); {
		case span.Name() != "vigil.detect":
			t.Errorf("there is a span %s", span.Name())
		case !parent.IsValid():
			began[span.SpanContext().TraceID().String()] = true
		case parent.TraceID().String() == "0123456789abcdef0123456789abcdef":
			inTrace++
		default:
			t.Errorf("a span has parent %v", parent)
		}
	}
	if inTrace != traced || traced == 0 {
		t.Errorf("%d spans for %d events with a trace", inTrace, traced)
	}
	if len(began) != 2 {
		t.Errorf("%d traces began, want one with each of the two findings whose event has none", len(began))
	}
	shown := exemplars(families, "vigil_control_detect_seconds")
	for _, trace := range shown {
		if trace != "0123456789abcdef0123456789abcdef" && !began[trace] {
			t.Errorf("an exemplar names the trace %s, which there is not", trace)
		}
	}
	if len(shown) == 0 || len(exemplars(families, "vigil_control_pipeline_lag_seconds")) == 0 {
		t.Error("a latency has no exemplar")
	}
}

// exemplars gives the traces that a histogram's exemplars name.
func exemplars(families []*dto.MetricFamily, name string) (traces []string) {
	for _, family := range families {
		for _, m := range family.GetMetric() {
			for _, bucket := range m.GetHistogram().GetBucket() {
				for _, label := range bucket.GetExemplar().GetLabel() {
					if family.GetName() == name && label.GetName() == "trace_id" {
						traces = append(traces, label.GetValue())
					}
				}
			}
		}
	}
	return traces
}

// BenchmarkBatch commits batches of 100 step reports of one run.
func BenchmarkBatch(b *testing.B) {
	p, _ := setup(b, filepath.Join(b.TempDir(), "vigil.db"), nil)
	r := &reader{Pipeline: p, bank: p.deps.NewBank()}
	sequence := uint64(0)
	for b.Loop() {
		var frames []bus.Delivery
		for range 100 {
			sequence++
			e := stepped(int64(sequence), 1)
			e.RunId, e.Node, e.Time = "r", "n", timestamppb.New(start)
			frames = append(frames, bus.Delivery{Sequence: sequence, Message: bus.Message{
				Node: "n", Received: start, Batch: &agentv1.EventBatch{RunId: "r", Events: []*commonv1.Event{e}},
			}})
		}
		if err := r.handle(b.Context(), frames); err != nil {
			b.Fatal(err)
		}
	}
}
