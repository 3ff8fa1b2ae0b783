package otlp

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

	otlpcommon "go.opentelemetry.io/proto/otlp/common/v1"
	otlplogs "go.opentelemetry.io/proto/otlp/logs/v1"
	otlpresource "go.opentelemetry.io/proto/otlp/resource/v1"

	"github.com/vigil-ml/vigil/controlplane/export"
)

// logOf gives a document as a log record: its message is the body, and its
// fields are attributes under the names that they have in the Elastic Common
// Schema, which OpenTelemetry's are growing together with.
func logOf(d export.Document) *otlplogs.ResourceLogs {
	record := &otlplogs.LogRecord{
		TimeUnixNano: uint64(max(d.Time.UnixNano(), 0)), ObservedTimeUnixNano: uint64(max(d.Received.UnixNano(), 0)),
		EventName: "vigil." + d.Stream, SeverityNumber: severityOf(d), Attributes: []*otlpcommon.KeyValue{export.TextAttribute("log.record.uid", d.ID)},
	}
	if message, ok := d.Fields["message"].(string); ok {
		record.Body = anyOf(message)
	}
	record.TraceId, record.SpanId = idOf(d, "trace", 16), idOf(d, "span", 8)
	resource := []*otlpcommon.KeyValue{export.TextAttribute("service.name", "vigil"), export.TextAttribute("service.namespace", "vigil")}
	for _, name := range slices.Sorted(maps.Keys(d.Fields)) {
		switch name {
		case "message", "trace", "span", "@timestamp", "ecs", "service":
		case "host":
			resource = append(resource, flat(name, d.Fields[name])...)
		default:
			record.Attributes = append(record.Attributes, flat(name, d.Fields[name])...)
		}
	}
	return &otlplogs.ResourceLogs{
		Resource:  &otlpresource.Resource{Attributes: resource},
		ScopeLogs: []*otlplogs.ScopeLogs{{Scope: &otlpcommon.InstrumentationScope{Name: "vigil." + d.Stream}, LogRecords: []*otlplogs.LogRecord{record}}},
	}
}

// severityOf reads what findings, incidents, faults and logs say of it.
func severityOf(d export.Document) otlplogs.SeverityNumber {
	word := textAt(d.Fields, "log", "level")
	if word == "" {
		word = textAt(d.Fields, "event", "reason")
	}
	switch word {
	case "debug":
		return otlplogs.SeverityNumber_SEVERITY_NUMBER_DEBUG
	case "warn", "warning":
		return otlplogs.SeverityNumber_SEVERITY_NUMBER_WARN
	case "error", "critical":
		return otlplogs.SeverityNumber_SEVERITY_NUMBER_ERROR
	case "fatal":
		return otlplogs.SeverityNumber_SEVERITY_NUMBER_FATAL
	}
	return otlplogs.SeverityNumber_SEVERITY_NUMBER_INFO
}

// textAt gives a text in an object of the fields; "" when there is none.
func textAt(fields map[string]any, object, name string) string {
	inner, _ := fields[object].(map[string]any)
	found, _ := inner[name].(string)
	return found
}

func idOf(d export.Document, object string, size int) []byte {
	id, err := hex.DecodeString(textAt(d.Fields, object, "id"))
	if err != nil || len(id) != size {
		return nil
	}
	return id
}

// flat gives a value as attributes: those of an object by its names, but for
// vigil.body, which stays together.
func flat(name string, value any) []*otlpcommon.KeyValue {
	inner, ok := value.(map[string]any)
	if !ok || name == "vigil.body" {
		return []*otlpcommon.KeyValue{{Key: name, Value: anyOf(value)}}
	}
	var all []*otlpcommon.KeyValue
	for _, key := range slices.Sorted(maps.Keys(inner)) {
		all = append(all, flat(name+"."+key, inner[key])...)
	}
	return all
}

// anyOf gives a value as OpenTelemetry has it.
func anyOf(value any) *otlpcommon.AnyValue {
	switch v := value.(type) {
	case nil:
		return &otlpcommon.AnyValue{}
	case string:
		return &otlpcommon.AnyValue{Value: &otlpcommon.AnyValue_StringValue{StringValue: v}}
	case bool:
		return &otlpcommon.AnyValue{Value: &otlpcommon.AnyValue_BoolValue{BoolValue: v}}
	case float64:
		return &otlpcommon.AnyValue{Value: &otlpcommon.AnyValue_DoubleValue{DoubleValue: v}}
	case int64:
		return &otlpcommon.AnyValue{Value: &otlpcommon.AnyValue_IntValue{IntValue: v}}
	case uint32:
		return anyOf(int64(v))
	case uint64:
		return anyOf(int64(v))
	case int:
		return anyOf(int64(v))
	case json.Number:
		if n, err := strconv.ParseInt(v.String(), 10, 64); err == nil {
			return anyOf(n)
		}
		return anyOf(v.String())
	case []string:
		return listOf(v)
	case []any:
		return listOf(v)
	case map[string]string:
		return tableOf(v)
	case map[string]any:
		return tableOf(v)
	}
	return anyOf(fmt.Sprint(value))
}

func listOf[T any](values []T) *otlpcommon.AnyValue {
	list := &otlpcommon.ArrayValue{}
	for _, one := range values {
		list.Values = append(list.Values, anyOf(one))
	}
	return &otlpcommon.AnyValue{Value: &otlpcommon.AnyValue_ArrayValue{ArrayValue: list}}
}

func tableOf[T any](values map[string]T) *otlpcommon.AnyValue {
	table := &otlpcommon.KeyValueList{}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		table.Values = append(table.Values, &otlpcommon.KeyValue{Key: key, Value: anyOf(values[key])})
	}
	return &otlpcommon.AnyValue{Value: &otlpcommon.AnyValue_KvlistValue{KvlistValue: table}}
}
