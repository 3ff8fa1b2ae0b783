package telemetry

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	collectorlogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlpcommon "go.opentelemetry.io/proto/otlp/common/v1"
	otlplogs "go.opentelemetry.io/proto/otlp/logs/v1"
	otlpmetrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	otlpresource "go.opentelemetry.io/proto/otlp/resource/v1"
	otlptrace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

func textOf(key, value string) *otlpcommon.KeyValue {
	return &otlpcommon.KeyValue{Key: key, Value: &otlpcommon.AnyValue{Value: &otlpcommon.AnyValue_StringValue{StringValue: value}}}
}

// ask makes a request of a relay as an exporter does, and gives what was kept and
// which signals were lost.
func ask(t *testing.T, request proto.Message) (k *kept, lost []string, err error) {
	t.Helper()
	relay, err := NewRelay(func(signal string) { lost = append(lost, signal) })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = relay.Close() }()
	k = &kept{}
	relay.Attach(k.take)
	err = relay.intercept(context.Background(), "", request, nil, nil, nil)
	for _, said := range k.all {
		if len(said.GetOtlp()) > MaxOTLPBytes {
			t.Errorf("a request of %d bytes was handed on", len(said.GetOtlp()))
		}
	}
	return k, lost, err
}

// TestLargeRequestsAreHandedOnInParts: what does not fit into one request goes in
// several, in order, each with where it comes from; one record that does not fit
// by itself is lost, and the others are not.
func TestLargeRequestsAreHandedOnInParts(t *testing.T) {
	resource := &otlpresource.Resource{Attributes: []*otlpcommon.KeyValue{textOf("service.name", "a"), textOf("b", "c")}}
	scope := &otlpcommon.InstrumentationScope{Name: "s"}
	records := func(sizes ...int) (all []*otlplogs.LogRecord) {
		for n, size := range sizes {
			all = append(all, &otlplogs.LogRecord{EventName: fmt.Sprint(n), Body: textOf("", strings.Repeat("x", size)).Value})
		}
		return all
	}
	request := func(all []*otlplogs.LogRecord) *collectorlogs.ExportLogsServiceRequest {
		return &collectorlogs.ExportLogsServiceRequest{ResourceLogs: []*otlplogs.ResourceLogs{{
			Resource: resource, SchemaUrl: "u", ScopeLogs: []*otlplogs.ScopeLogs{{Scope: scope, LogRecords: all}},
		}}}
	}
	const half = MaxOTLPBytes / 2
	for name, tc := range map[string]struct {
		sizes []int
		kept  []string // the names of the records of each request
		lost  []string
	}{
		"small":         {[]int{5, 5, 5}, []string{"0 1 2"}, nil},
		"large":         {[]int{half, half, 5, half, half}, []string{"0", "1", "2", "3", "4"}, nil},
		"one too large": {[]int{5, 5, MaxOTLPBytes, 5}, []string{"0 1", "3"}, []string{"logs"}},
		"alone":         {[]int{MaxOTLPBytes}, nil, []string{"logs"}},
	} {
		k, lost, err := ask(t, request(records(tc.sizes...)))
		if (err != nil) != (tc.lost != nil) {
			t.Errorf("%s: %v", name, err)
		}
		var got []string
		for _, said := range k.all {
			in := &collectorlogs.ExportLogsServiceRequest{}
			read(t, said, in)
			var names []string
			for _, record := range in.ResourceLogs[0].ScopeLogs[0].LogRecords {
				names = append(names, record.EventName)
			}
			got = append(got, strings.Join(names, " "))
			if !proto.Equal(in.ResourceLogs[0].Resource, resource) || in.ResourceLogs[0].SchemaUrl != "u" || !proto.Equal(in.ResourceLogs[0].ScopeLogs[0].Scope, scope) {
				t.Errorf("%s: a part comes from elsewhere: %v", name, in.ResourceLogs[0].Resource)
			}
		}
		if diff := cmp.Diff([][]string{tc.kept, tc.lost}, [][]string{got, lost}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestHalvesOfEachSignal: spans are parted between resources, scopes and spans,
// and never within one; metrics also between their points.
func TestHalvesOfEachSignal(t *testing.T) {
	span := &otlptrace.Span{Name: "n", Events: []*otlptrace.Span_Event{{Name: "a"}, {Name: "b"}}, Attributes: []*otlpcommon.KeyValue{textOf("a", "b"), textOf("c", "d")}}
	spans := func(all ...*otlptrace.Span) *otlptrace.ResourceSpans {
		return &otlptrace.ResourceSpans{ScopeSpans: []*otlptrace.ScopeSpans{{Spans: all}}}
	}
	points := func(n int) *otlpmetrics.Metric {
		return &otlpmetrics.Metric{Name: "m", Unit: "s", Data: &otlpmetrics.Metric_Histogram{Histogram: &otlpmetrics.Histogram{
			AggregationTemporality: 2, DataPoints: make([]*otlpmetrics.HistogramDataPoint, n),
		}}}
	}
	metrics := func(m *otlpmetrics.Metric) *collectormetrics.ExportMetricsServiceRequest {
		for i := range m.GetHistogram().GetDataPoints() {
			m.GetHistogram().DataPoints[i] = &otlpmetrics.HistogramDataPoint{Count: uint64(i)}
		}
		return &collectormetrics.ExportMetricsServiceRequest{ResourceMetrics: []*otlpmetrics.ResourceMetrics{{
			ScopeMetrics: []*otlpmetrics.ScopeMetrics{{Metrics: []*otlpmetrics.Metric{m}}},
		}}}
	}
	traces := func(all ...*otlptrace.ResourceSpans) proto.Message {
		return &collectortrace.ExportTraceServiceRequest{ResourceSpans: all}
	}
	second := metrics(points(2))
	second.ResourceMetrics[0].ScopeMetrics[0].Metrics[0].GetHistogram().DataPoints[0].Count = 1
	second.ResourceMetrics[0].ScopeMetrics[0].Metrics[0].GetHistogram().DataPoints[1].Count = 2
	for name, tc := range map[string]struct{ request, first, second proto.Message }{
		"resources": {traces(spans(span), spans(span, span)), traces(spans(span)), traces(spans(span, span))},
		"spans":     {traces(spans(span, span)), traces(spans(span)), traces(spans(span))},
		"one span":  {traces(spans(span)), nil, nil},
		"nothing":   {traces(), nil, nil},
		"points":    {metrics(points(3)), metrics(points(1)), second},
		"one point": {metrics(points(1)), nil, nil},
	} {
		before := proto.Clone(tc.request)
		first, second, ok := halve(tc.request)
		if ok != (tc.first != nil) || (ok && (!proto.Equal(first, tc.first) || !proto.Equal(second, tc.second))) {
			t.Errorf("%s: %v, %v, %v", name, first, second, ok)
		}
		if !proto.Equal(before, tc.request) {
			t.Errorf("%s: the request was changed", name)
		}
	}
}
