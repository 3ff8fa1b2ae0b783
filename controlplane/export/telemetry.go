package export

import (
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	collectorlogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlpcommon "go.opentelemetry.io/proto/otlp/common/v1"
	otlplogs "go.opentelemetry.io/proto/otlp/logs/v1"
	otlpmetrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	otlpresource "go.opentelemetry.io/proto/otlp/resource/v1"
	otlptrace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// origin is where what a program says of itself comes from.
type origin struct {
	id            string
	received      time.Time
	node, run     string
	attempt, rank uint32
}

// facts are what is below "vigil" in each document.
func (o origin) facts() object {
	facts := object{}
	set(facts, "node", o.node)
	if o.run != "" {
		facts["run"], facts["attempt"], facts["rank"] = o.run, o.attempt, o.rank
	}
	return facts
}

func (o origin) document(stream string, n int) Document {
	return Document{Stream: stream, ID: o.id + "-" + strconv.Itoa(n), Received: o.received}
}

// mark adds to a resource where it comes from, in words that a collector keeps.
// What the program itself says of that does not count.
func (o origin) mark(resource *otlpresource.Resource) *otlpresource.Resource {
	marked := proto.CloneOf(resource)
	if marked == nil {
		marked = &otlpresource.Resource{}
	}
	add := func(key, value string) {
		if value != "" {
			marked.Attributes = slices.DeleteFunc(marked.Attributes, func(a *otlpcommon.KeyValue) bool { return a.GetKey() == key })
			marked.Attributes = append(marked.Attributes, TextAttribute(key, value))
		}
	}
	add("host.name", o.node)
	add("vigil.run", o.run)
	if o.run != "" {
		add("vigil.attempt", fmt.Sprint(o.attempt))
		add("vigil.rank", fmt.Sprint(o.rank))
	}
	return marked
}

// TextAttribute is a text as an attribute of OpenTelemetry's.
func TextAttribute(key, value string) *otlpcommon.KeyValue {
	return &otlpcommon.KeyValue{Key: key, Value: &otlpcommon.AnyValue{Value: &otlpcommon.AnyValue_StringValue{StringValue: value}}}
}

// telemetryDocuments gives a document for each span and log record, and one for
// the metrics of a resource.
func telemetryDocuments(from origin, said *commonv1.Telemetry) ([]Document, error) {
	switch said.GetSignal() {
	case commonv1.Signal_SIGNAL_TRACES:
		in := &collectortrace.ExportTraceServiceRequest{}
		if err := proto.Unmarshal(said.GetOtlp(), in); err != nil {
			return nil, fault.Mark(fault.Corrupt, err)
		}
		return spanDocuments(from, in.GetResourceSpans()), nil
	case commonv1.Signal_SIGNAL_LOGS:
		in := &collectorlogs.ExportLogsServiceRequest{}
		if err := proto.Unmarshal(said.GetOtlp(), in); err != nil {
			return nil, fault.Mark(fault.Corrupt, err)
		}
		return otlpLogDocuments(from, in.GetResourceLogs()), nil
	case commonv1.Signal_SIGNAL_METRICS:
		in := &collectormetrics.ExportMetricsServiceRequest{}
		if err := proto.Unmarshal(said.GetOtlp(), in); err != nil {
			return nil, fault.Mark(fault.Corrupt, err)
		}
		return metricDocuments(from, in.GetResourceMetrics()), nil
	}
	return nil, fault.New(fault.Unsupported, "telemetry of signal %d is not known", said.GetSignal())
}

func spanDocuments(from origin, all []*otlptrace.ResourceSpans) []Document {
	var documents []Document
	for _, of := range all {
		resource := from.mark(of.GetResource())
		for _, in := range of.GetScopeSpans() {
			for _, span := range in.GetSpans() {
				d := from.document(StreamTraces, len(documents))
				d.Time = timeOfNanos(span.GetStartTimeUnixNano(), from.received)
				d.OTLP = &otlptrace.ResourceSpans{
					Resource: resource, SchemaUrl: of.GetSchemaUrl(),
					ScopeSpans: []*otlptrace.ScopeSpans{{Scope: in.GetScope(), SchemaUrl: in.GetSchemaUrl(), Spans: []*otlptrace.Span{span}}},
				}
				documents = append(documents, d)
			}
		}
	}
	return documents
}

func metricDocuments(from origin, all []*otlpmetrics.ResourceMetrics) []Document {
	var documents []Document
	for _, of := range all {
		d := from.document(StreamMetrics, len(documents))
		d.Time = from.received
		of.Resource = from.mark(of.GetResource())
		d.OTLP = of
		documents = append(documents, d)
	}
	return documents
}

func otlpLogDocuments(from origin, all []*otlplogs.ResourceLogs) []Document {
	var documents []Document
	for _, of := range all {
		resource := from.mark(of.GetResource())
		for _, in := range of.GetScopeLogs() {
			for _, record := range in.GetLogRecords() {
				d := from.document(StreamLogs, len(documents))
				d.Time = timeOfNanos(record.GetTimeUnixNano(), from.received)
				d.Fields = otlpLogFields(from, d, of.GetResource(), in.GetScope().GetName(), record)
				record.Attributes = append(record.Attributes, TextAttribute("log.record.uid", d.ID))
				d.OTLP = &otlplogs.ResourceLogs{
					Resource: resource, SchemaUrl: of.GetSchemaUrl(),
					ScopeLogs: []*otlplogs.ScopeLogs{{Scope: in.GetScope(), SchemaUrl: in.GetSchemaUrl(), LogRecords: []*otlplogs.LogRecord{record}}},
				}
				documents = append(documents, d)
			}
		}
	}
	return documents
}

func timeOfNanos(nanos uint64, otherwise time.Time) time.Time {
	if nanos == 0 {
		return otherwise
	}
	return time.Unix(0, int64(nanos)).UTC()
}

// otlpLogFields is a log record in the words of the Elastic Common Schema.
func otlpLogFields(from origin, d Document, resource *otlpresource.Resource, logger string, record *otlplogs.LogRecord) object {
	fields := base(d.Time, from.received, StreamLogs, "event")
	fields["event"].(object)["id"] = d.ID
	service := fields["service"].(object)
	facts := from.facts()
	for _, a := range resource.GetAttributes() {
		switch value := anyText(a.GetValue()); a.GetKey() {
		case "service.name":
			service["name"] = value
		case "service.version":
			service["version"] = value
		case "service.instance.id":
			service["node"] = object{"name": value}
		case "host.name":
			fields["host"] = object{"name": value}
		case "vigil.run":
			if from.node == "" {
				set(facts, "run", value)
			}
		}
	}
	if from.node != "" {
		fields["host"] = object{"name": from.node}
	}
	attributes := object{}
	for _, a := range record.GetAttributes() {
		attributes[a.GetKey()] = anyText(a.GetValue())
	}
	lift(fields, attributes)
	if text, ok := attributes["run"].(string); ok && from.run == "" && facts["run"] == nil {
		facts["run"] = text
	}
	if len(attributes) > 0 {
		facts["body"] = attributes
	}
	fields["vigil"], fields["message"] = facts, anyText(record.GetBody())
	fields["log"] = object{"level": strings.ToLower(record.GetSeverityText()), "logger": logger}
	if len(record.GetTraceId()) == 16 {
		fields["trace"] = object{"id": hex.EncodeToString(record.GetTraceId())}
		fields["span"] = object{"id": hex.EncodeToString(record.GetSpanId())}
	}
	return fields
}

// lift moves what the schema has words for out of a record's attributes.
func lift(fields, attributes object) {
	errorFields := object{}
	for _, word := range [][2]string{
		{"exception.type", "type"}, {"exception.message", "message"}, {"exception.stacktrace", "stack_trace"}, {"error", "message"}, {"err", "message"},
	} {
		from, to := word[0], word[1]
		// Of two for one word the second stays among the attributes.
		if text, ok := attributes[from].(string); ok && errorFields[to] == nil {
			errorFields[to] = text
			delete(attributes, from)
		}
	}
	if len(errorFields) > 0 {
		fields["error"] = errorFields
	}
}

// anyText is a value of OpenTelemetry as a text.
func anyText(v *otlpcommon.AnyValue) string {
	switch value := v.GetValue().(type) {
	case nil:
		return ""
	case *otlpcommon.AnyValue_StringValue:
		return value.StringValue
	case *otlpcommon.AnyValue_BoolValue:
		return strconv.FormatBool(value.BoolValue)
	case *otlpcommon.AnyValue_IntValue:
		return strconv.FormatInt(value.IntValue, 10)
	case *otlpcommon.AnyValue_DoubleValue:
		return strconv.FormatFloat(value.DoubleValue, 'g', -1, 64)
	case *otlpcommon.AnyValue_BytesValue:
		return hex.EncodeToString(value.BytesValue)
	case *otlpcommon.AnyValue_ArrayValue:
		var all []string
		for _, one := range value.ArrayValue.GetValues() {
			all = append(all, anyText(one))
		}
		return "[" + strings.Join(all, ", ") + "]"
	case *otlpcommon.AnyValue_KvlistValue:
		var all []string
		for _, one := range value.KvlistValue.GetValues() {
			all = append(all, one.GetKey()+"="+anyText(one.GetValue()))
		}
		return "{" + strings.Join(all, ", ") + "}"
	}
	return fmt.Sprint(v)
}

// logDocuments gives a document for each line that a trainer or an agent sent.
func logDocuments(received time.Time, event *commonv1.Event, logs *commonv1.LogBatch) []Document {
	from := origin{
		id: event.GetEventId(), received: received, node: event.GetNode(), run: event.GetRunId(),
		attempt: event.GetAttempt(), rank: event.GetRank(),
	}
	var documents []Document
	for n, record := range logs.GetRecords() {
		d := from.document(StreamLogs, n)
		switch {
		case record.GetTime() != nil:
			d.Time = record.GetTime().AsTime()
		case event.GetTime() != nil:
			d.Time = event.GetTime().AsTime()
		default:
			d.Time = received
		}
		fields, facts := base(d.Time, received, StreamLogs, "event"), from.facts()
		fields["event"].(object)["id"] = d.ID
		fields["host"] = object{"name": event.GetNode()}
		fields["message"] = record.GetMessage()
		fields["log"] = object{"level": strings.ToLower(record.GetLevel()), "logger": record.GetLogger()}
		traceparent := record.GetTraceparent()
		if traceparent == "" {
			traceparent = event.GetTraceparent()
		}
		traced(fields, traceparent)
		attributes := object{}
		for key, value := range maps.All(record.GetAttributes()) {
			attributes[key] = value
		}
		set(attributes, "exception.type", record.GetErrorType())
		set(attributes, "exception.message", record.GetErrorMessage())
		set(attributes, "exception.stacktrace", record.GetStackTrace())
		lift(fields, attributes)
		if len(attributes) > 0 {
			facts["body"] = attributes
		}
		fields["vigil"] = facts
		d.Fields = fields
		documents = append(documents, d)
	}
	return documents
}
