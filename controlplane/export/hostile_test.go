package export_test

import (
	"testing"
	"time"

	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlpcommon "go.opentelemetry.io/proto/otlp/common/v1"
	otlptrace "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/controlplane/export/otlp/otlptest"
	"github.com/vigil-ml/vigil/internal/testkit"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// TestTelemetryThatIsWrongHoldsUpNothing holds that what a trainer sends as its
// telemetry neither keeps other events of the frame from being exported, nor says
// that it comes from another node or run.
func TestTelemetryThatIsWrongHoldsUpNothing(t *testing.T) {
	r, p := otlptest.New(t), newWholePlane(t)
	p.start(otlpAt(t, r), time.Now)
	said := func(key, value string) *otlpcommon.KeyValue {
		return &otlpcommon.KeyValue{Key: key, Value: &otlpcommon.AnyValue{Value: &otlpcommon.AnyValue_StringValue{StringValue: value}}}
	}
	lies := resource()
	lies.Attributes = append(lies.Attributes, said("host.name", "another"), said("vigil.run", "another"), said("vigil.run", "yet another"))
	span := &otlptrace.Span{Name: "x", TraceId: make([]byte, 16), SpanId: make([]byte, 8), StartTimeUnixNano: 1, EndTimeUnixNano: 2}
	event := func(id string, telemetry *commonv1.Telemetry) *commonv1.Event {
		return &commonv1.Event{EventId: id, RunId: "r", Node: "n", Body: &commonv1.Event_Telemetry{Telemetry: telemetry}}
	}
	_, err := p.bus.Publish(t.Context(), bus.Message{
		Node: "n", Position: &agentv1.Position{Epoch: 1, Sequence: 1}, Received: time.Now(), Batch: &agentv1.EventBatch{RunId: "r", Events: []*commonv1.Event{
			event("garbage", &commonv1.Telemetry{Signal: commonv1.Signal_SIGNAL_LOGS, Otlp: []byte("garbage")}),
			event("unknown", &commonv1.Telemetry{Signal: 77}),
			event("lies", saidOf(t, span, lies.Attributes)),
			{EventId: "good", RunId: "r", Node: "n", Body: &commonv1.Event_Tick{}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "what is good", func() bool { return r.Times()["good"] == 1 && len(r.Spans()) == 1 })
	got := r.Spans()[0].Resource.GetAttributes()
	count := map[string]int{}
	for _, a := range got {
		count[a.GetKey()]++
	}
	if otlptest.Attribute(got, "host.name") != "n" || otlptest.Attribute(got, "vigil.run") != "r" || count["vigil.run"] != 1 || count["host.name"] != 1 {
		t.Errorf("the span is of %v", got)
	}
}

func saidOf(t *testing.T, span *otlptrace.Span, attributes []*otlpcommon.KeyValue) *commonv1.Telemetry {
	from := resource()
	from.Attributes = attributes
	return said(t, commonv1.Signal_SIGNAL_TRACES, &collectortrace.ExportTraceServiceRequest{ResourceSpans: []*otlptrace.ResourceSpans{
		{Resource: from, ScopeSpans: []*otlptrace.ScopeSpans{{Spans: []*otlptrace.Span{span}}}},
	}})
}
