package telemetry

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	collectorlogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/internal/metric"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// kept is what a relay handed on.
type kept struct {
	mu  sync.Mutex
	all []*commonv1.Telemetry
}

func (k *kept) take(_ context.Context, said *commonv1.Telemetry) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.all = append(k.all, said)
	return nil
}

func read(t *testing.T, said *commonv1.Telemetry, into proto.Message) {
	t.Helper()
	if err := proto.Unmarshal(said.GetOtlp(), into); err != nil {
		t.Fatal(err)
	}
}

// TestProvideHandsOnAllThreeSignals holds that a span, a line of the log and a
// histogram with the span's trace as its exemplar are handed on in OTLP's form,
// also those that were there before anybody took them.
func TestProvideHandsOnAllThreeSignals(t *testing.T) {
	registry := prometheus.NewRegistry()
	relay, err := NewRelay(func(signal string) { t.Errorf("%s was lost", signal) })
	if err != nil {
		t.Fatal(err)
	}
	p, err := Provide(t.Context(), Who{Program: "prog", Version: "1", Instance: "a", More: map[string]string{"vigil.run": "r"}},
		Wanted{Traces: true, Logs: true, Metrics: registry, MetricsEvery: time.Hour}, relay)
	if err != nil {
		t.Fatal(err)
	}
	log := Logger(io.Discard, DefaultLog(), p.Logs)
	ctx, span := p.Tracer.Start(t.Context(), "work")
	traceID := trace.SpanContextFromContext(ctx).TraceID()
	log.InfoContext(ctx, "began", "step", 7)
	log.DebugContext(ctx, "not said at this level")
	metric.ObserveTraced(metric.NewLatency(registry, metric.ControlPipelineLag).WithLabelValues(), 0.25, Traceparent(ctx))
	span.End()

	k := &kept{}
	relay.Attach(k.take)
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, said := range k.all {
		got[SignalName(said.GetSignal())]++
		switch said.GetSignal() {
		case commonv1.Signal_SIGNAL_TRACES:
			in := &collectortrace.ExportTraceServiceRequest{}
			read(t, said, in)
			if s := in.ResourceSpans[0].ScopeSpans[0].Spans[0]; s.Name != "work" || string(s.TraceId) != string(traceID[:]) {
				t.Errorf("the span is %v", s)
			}
		case commonv1.Signal_SIGNAL_LOGS:
			in := &collectorlogs.ExportLogsServiceRequest{}
			read(t, said, in)
			records := in.ResourceLogs[0].ScopeLogs[0].LogRecords
			if len(records) != 1 || records[0].Body.GetStringValue() != "began" || string(records[0].TraceId) != string(traceID[:]) {
				t.Errorf("the records are %v", records)
			}
		case commonv1.Signal_SIGNAL_METRICS:
			in := &collectormetrics.ExportMetricsServiceRequest{}
			read(t, said, in)
			h := in.ResourceMetrics[0].ScopeMetrics[0].Metrics[0].GetHistogram().GetDataPoints()[0]
			if h.GetCount() != 1 || len(h.Exemplars) != 1 || string(h.Exemplars[0].TraceId) != string(traceID[:]) {
				t.Errorf("the histogram is %v", h)
			}
		}
	}
	if diff := cmp.Diff(map[string]int{"traces": 1, "logs": 1, "metrics": 1}, got); diff != "" {
		t.Error(diff)
	}
}

// TestRelayCountsWhatIsNotKept holds that what nobody keeps is counted once, and
// not sent again.
func TestRelayCountsWhatIsNotKept(t *testing.T) {
	var mu sync.Mutex
	lost, tries := []string{}, 0
	relay, err := NewRelay(func(signal string) { mu.Lock(); defer mu.Unlock(); lost = append(lost, signal) })
	if err != nil {
		t.Fatal(err)
	}
	relay.Attach(func(context.Context, *commonv1.Telemetry) error {
		mu.Lock()
		defer mu.Unlock()
		tries++
		return errors.New("the disk is full")
	})
	p, err := Provide(t.Context(), Who{Program: "prog"}, Wanted{Traces: true}, relay)
	if err != nil {
		t.Fatal(err)
	}
	_, span := p.Tracer.Start(t.Context(), "work")
	span.End()
	if err := p.Close(t.Context()); err != nil {
		t.Errorf("closed with %v", err)
	}
	if diff := cmp.Diff([]string{"traces"}, lost); diff != "" || tries != 1 {
		t.Errorf("lost %v after %d tries", lost, tries)
	}
}

// TestOthersHaveTheLevelToo holds that a level that changes is every handler's.
func TestOthersHaveTheLevelToo(t *testing.T) {
	var out strings.Builder
	log, setLevel := LeveledLogger(io.Discard, DefaultLog(), nil, slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	log = log.With("a", 1).WithGroup("g")
	log.Debug("hidden")
	setLevel("debug")
	log.Debug("shown", "b", 2)
	if text := out.String(); strings.Contains(text, "hidden") || !strings.Contains(text, "shown a=1 g.b=2") {
		t.Errorf("it has %q", text)
	}
}
