package export_test

import (
	"crypto/sha256"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	collectorlogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlpcommon "go.opentelemetry.io/proto/otlp/common/v1"
	otlplogs "go.opentelemetry.io/proto/otlp/logs/v1"
	otlpmetrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	otlpresource "go.opentelemetry.io/proto/otlp/resource/v1"
	otlptrace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/controlplane/export"
	"github.com/vigil-ml/vigil/controlplane/export/otlp"
	"github.com/vigil-ml/vigil/controlplane/export/otlp/otlptest"
	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

func said(t *testing.T, signal commonv1.Signal, request proto.Message) *commonv1.Telemetry {
	t.Helper()
	data, err := proto.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	return &commonv1.Telemetry{Signal: signal, Otlp: data}
}

func resource() *otlpresource.Resource {
	return &otlpresource.Resource{Attributes: []*otlpcommon.KeyValue{
		{Key: "service.name", Value: &otlpcommon.AnyValue{Value: &otlpcommon.AnyValue_StringValue{StringValue: "test"}}},
	}}
}

func spanOf(t *testing.T, name string, n uint64) *commonv1.Telemetry {
	id := sha256.Sum256([]byte(fmt.Sprint(name, n)))
	span := &otlptrace.Span{Name: name, TraceId: id[:16], SpanId: id[16:24], StartTimeUnixNano: 5, EndTimeUnixNano: 6}
	return said(t, commonv1.Signal_SIGNAL_TRACES, &collectortrace.ExportTraceServiceRequest{ResourceSpans: []*otlptrace.ResourceSpans{
		{Resource: resource(), ScopeSpans: []*otlptrace.ScopeSpans{{Spans: []*otlptrace.Span{span}}}},
	}})
}

func lineOf(t *testing.T, text string) *commonv1.Telemetry {
	record := &otlplogs.LogRecord{TimeUnixNano: 5, SeverityText: "INFO", Body: &otlpcommon.AnyValue{Value: &otlpcommon.AnyValue_StringValue{StringValue: text}}}
	return said(t, commonv1.Signal_SIGNAL_LOGS, &collectorlogs.ExportLogsServiceRequest{ResourceLogs: []*otlplogs.ResourceLogs{
		{Resource: resource(), ScopeLogs: []*otlplogs.ScopeLogs{{LogRecords: []*otlplogs.LogRecord{record}}}},
	}})
}

func gaugeOf(t *testing.T) *commonv1.Telemetry {
	m := &otlpmetrics.Metric{Name: "vigil_control_agents", Data: &otlpmetrics.Metric_Gauge{Gauge: &otlpmetrics.Gauge{
		DataPoints: []*otlpmetrics.NumberDataPoint{{TimeUnixNano: 5, Value: &otlpmetrics.NumberDataPoint_AsDouble{AsDouble: 3}}},
	}}}
	return said(t, commonv1.Signal_SIGNAL_METRICS, &collectormetrics.ExportMetricsServiceRequest{ResourceMetrics: []*otlpmetrics.ResourceMetrics{
		{Resource: resource(), ScopeMetrics: []*otlpmetrics.ScopeMetrics{{Metrics: []*otlpmetrics.Metric{m}}}},
	}})
}

func otlpAt(t *testing.T, r *otlptest.Receiver) export.Exporter {
	t.Helper()
	config := otlp.Defaults()
	config.Endpoint, config.Plaintext = r.Address(), true
	made, err := otlp.New(config, export.Deps{Name: "search", Version: "test", Log: testkit.Logger(t), Clock: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// TestOTLPHasEverythingOnceAfterAnOutage holds that every log record, span and
// metric is there once, after the receiver was not there at all, then put
// everything off, and the control plane was restarted twice meanwhile.
func TestOTLPHasEverythingOnceAfterAnOutage(t *testing.T) {
	r, p := otlptest.New(t), newWholePlane(t)
	r.Stop()
	p.start(otlpAt(t, r), time.Now)
	p.publish(60)
	testkit.Eventually(t, "a failure", func() bool {
		status, err := p.runner.Status(t.Context())
		return err == nil && status.Failing != ""
	})
	p.stop()

	var asked atomic.Int64
	r.Fail(func(int, string) (bool, error) {
		asked.Add(1)
		return false, status.Error(codes.ResourceExhausted, "busy")
	})
	r.Start()
	p.start(otlpAt(t, r), time.Now)
	p.publish(60)
	testkit.Eventually(t, "some tries", func() bool { return asked.Load() >= 4 })
	p.stop()

	r.Fail(nil)
	p.start(otlpAt(t, r), time.Now)
	p.publish(30)
	const logs, spans = 150*5 + 150*2 + 3 + 6 + 3 + 3, 150 + 3
	testkit.Eventually(t, "everything", func() bool {
		return len(r.Logs()) >= logs && len(r.Spans()) >= spans && len(r.Metrics()) >= 3
	})
	for uid, n := range r.Times() {
		if n != 1 {
			t.Errorf("log record %s came %d times", uid, n)
		}
	}
	ids := map[string]bool{}
	for _, s := range r.Spans() {
		ids[string(s.GetSpanId())] = true
	}
	want := []int{logs, spans, spans, 3}
	if diff := cmp.Diff(want, []int{len(r.Times()), len(r.Spans()), len(ids), len(r.Metrics())}); diff != "" {
		t.Errorf("log records, spans, their ids and metrics (-want +got):\n%s", diff)
	}
	status, err := p.runner.Status(t.Context())
	if err != nil || status.Dead != 0 || status.Failing != "" {
		t.Errorf("status %+v, %v", status, err)
	}
}

// TestWhatOTLPMayHaveTwiceHasOneID holds that a receiver that takes requests
// without anybody learning of it gets them again under the same ids, and nothing
// is lost.
func TestWhatOTLPMayHaveTwiceHasOneID(t *testing.T) {
	r, p := otlptest.New(t), newWholePlane(t)
	r.Fail(func(n int, _ string) (bool, error) {
		if n%2 == 1 {
			return true, status.Error(codes.Unavailable, "the connection broke")
		}
		return false, nil
	})
	p.start(otlpAt(t, r), time.Now)
	p.publish(20)
	const logs, spans = 20*5 + 20*2 + 1 + 2 + 1 + 1, 20 + 1
	ids := func() int {
		ids := map[string]bool{}
		for _, s := range r.Spans() {
			ids[string(s.GetSpanId())] = true
		}
		return len(ids)
	}
	testkit.Eventually(t, "everything", func() bool { return len(r.Times()) >= logs && ids() >= spans })
	if len(r.Times()) != logs || ids() != spans || len(r.Logs()) == logs {
		t.Errorf("%d ids of log records, %d of spans, %d records; want %d, %d and more", len(r.Times()), ids(), len(r.Logs()), logs, spans)
	}
}
