package telemetry

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// inRequest tells of a field of OTLP's messages whether what a request has lies
// behind it: the lists of it, and those of a metric.
func inRequest(name protoreflect.Name) bool {
	switch name {
	case "resource_spans", "scope_spans", "spans",
		"resource_logs", "scope_logs", "log_records",
		"resource_metrics", "scope_metrics", "metrics",
		"gauge", "sum", "histogram", "exponential_histogram", "summary", "data_points":
		return true
	}
	return false
}

// halve gives a request as two, each with half of its spans, log records or
// metrics, or of the points of the only metric; false when there is but one. They
// share their content with the request.
func halve(request proto.Message) (first, second proto.Message, ok bool) {
	a, b, ok := halves(request.ProtoReflect())
	if !ok {
		return nil, nil, false
	}
	return a.Interface(), b.Interface(), true
}

func halves(m protoreflect.Message) (a, b protoreflect.Message, ok bool) {
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if field.Message() == nil || !inRequest(field.Name()) {
			return true
		}
		if !field.IsList() {
			if first, second, split := halves(v.Message()); split {
				a, b, ok = with(m, field, protoreflect.ValueOfMessage(first)), with(m, field, protoreflect.ValueOfMessage(second)), true
			}
			return false
		}
		var some, others []protoreflect.Value
		for i := range v.List().Len() {
			if i < v.List().Len()/2 {
				some = append(some, v.List().Get(i))
			} else {
				others = append(others, v.List().Get(i))
			}
		}
		ok = len(some) > 0
		if !ok && len(others) == 1 { // of one the halves
			var first, second protoreflect.Message
			if first, second, ok = halves(others[0].Message()); ok {
				some, others = []protoreflect.Value{protoreflect.ValueOfMessage(first)}, []protoreflect.Value{protoreflect.ValueOfMessage(second)}
			}
		}
		if ok {
			a, b = with(m, field, listOf(m, field, some)), with(m, field, listOf(m, field, others))
		}
		return false
	})
	return a, b, ok
}

func listOf(m protoreflect.Message, field protoreflect.FieldDescriptor, values []protoreflect.Value) protoreflect.Value {
	list := m.NewField(field)
	for _, v := range values {
		list.List().Append(v)
	}
	return list
}

// with gives a message with another value of a field, which shares the rest.
func with(m protoreflect.Message, field protoreflect.FieldDescriptor, v protoreflect.Value) protoreflect.Message {
	changed := m.New()
	m.Range(func(other protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		changed.Set(other, value)
		return true
	})
	changed.Set(field, v)
	return changed
}
