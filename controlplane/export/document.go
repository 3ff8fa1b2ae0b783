package export

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// ecsVersion is that of the Elastic Common Schema whose words are used.
const ecsVersion = "8.17"

type object = map[string]any

// eventDocuments gives the documents of a frame that are of streams which are taken:
// one for each event, or for each line, span and so on of what a program says of
// itself. An event that cannot be read is left out, and the error says so.
func eventDocuments(frame bus.Delivery, takes func(streams ...string) bool) ([]Document, error) {
	events := frame.Batch.GetEvents()
	documents := make([]Document, 0, len(events))
	var wrong []error
	for _, event := range events {
		var of []Document
		var err error
		if !takes(streamOf(event)) {
			continue
		}
		switch body := event.GetBody().(type) {
		case *commonv1.Event_Logs:
			of = logDocuments(frame.Received, event, body.Logs)
		case *commonv1.Event_Telemetry:
			of, err = telemetryDocuments(origin{
				id: event.GetEventId(), received: frame.Received, node: event.GetNode(), run: event.GetRunId(),
				attempt: event.GetAttempt(), rank: event.GetRank(),
			}, body.Telemetry)
		default:
			of = make([]Document, 1)
			of[0], err = eventDocument(frame.Received, event)
		}
		if err != nil {
			wrong = append(wrong, fmt.Errorf("write event %s: %w", event.GetEventId(), err))
			continue
		}
		documents = append(documents, of...)
	}
	return documents, errors.Join(wrong...)
}

// streamOf is the stream of an event's documents.
func streamOf(event *commonv1.Event) string {
	switch body := event.GetBody().(type) {
	case *commonv1.Event_Logs:
		return StreamLogs
	case *commonv1.Event_Telemetry:
		return streamOfSignal(body.Telemetry.GetSignal())
	}
	return StreamEvents
}

// streamOfSignal is the stream of what a program says of itself; of a signal that is
// not known it is that of events, where it can be said.
func streamOfSignal(signal commonv1.Signal) string {
	switch signal {
	case commonv1.Signal_SIGNAL_TRACES:
		return StreamTraces
	case commonv1.Signal_SIGNAL_LOGS:
		return StreamLogs
	case commonv1.Signal_SIGNAL_METRICS:
		return StreamMetrics
	}
	return StreamEvents
}

// eventDocument gives the document of an event. What it carries is below
// vigil.body as it is in JSON; numbers that people search by stand apart.
func eventDocument(received time.Time, event *commonv1.Event) (Document, error) {
	at := received
	if event.GetTime() != nil {
		at = event.GetTime().AsTime()
	}
	name, body, err := bodyOf(event)
	if err != nil {
		return Document{}, err
	}
	fields := base(at, received, StreamEvents, "event")
	facts := object{"node": event.GetNode(), "attempt": event.GetAttempt(), "rank": event.GetRank(), "body": body}
	set(facts, "run", event.GetRunId())
	fields["vigil"] = facts
	fields["event"].(object)["id"] = event.GetEventId()
	fields["event"].(object)["action"] = name
	fields["host"] = object{"name": event.GetNode()}
	traced(fields, event.GetTraceparent())
	describe(fields, facts, event)
	return Document{Stream: StreamEvents, ID: event.GetEventId(), Time: at, Received: received, Fields: fields}, nil
}

// base is what every document has.
func base(at, received time.Time, stream, kind string) object {
	return object{
		"@timestamp": timeText(at),
		"ecs":        object{"version": ecsVersion},
		"service":    object{"name": "vigil"},
		"event":      object{"kind": kind, "dataset": "vigil." + stream, "module": "vigil", "created": timeText(received)},
	}
}

func timeText(at time.Time) string { return at.UTC().Format(time.RFC3339Nano) }

// bodyOf gives what happened: its name in the protocol and its fields.
func bodyOf(event *commonv1.Event) (name string, body any, err error) {
	m := event.ProtoReflect()
	field := m.WhichOneof(m.Descriptor().Oneofs().ByName("body"))
	if field == nil {
		return "unknown", object{}, nil
	}
	body, err = plainJSON(m.Get(field).Message().Interface())
	return string(field.Name()), body, err
}

// plainJSON is a message as values that encoding/json writes. NaN and the
// infinities are texts, as protojson has them.
func plainJSON(m proto.Message) (any, error) {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return nil, fault.Mark(fault.Corrupt, err)
	}
	var value any
	return value, json.Unmarshal(text, &value)
}

// describe adds a sentence where there is one, and the figures that have fields
// of their own.
func describe(fields, facts object, event *commonv1.Event) {
	switch body := event.GetBody().(type) {
	case *commonv1.Event_Step:
		facts["step"] = body.Step.GetStep()
		finite(facts, "loss", body.Step.Loss)
		finite(facts, "gradient_norm", body.Step.GradientNorm)
		finite(facts, "step_seconds", body.Step.StepSeconds)
	case *commonv1.Event_NonFinite:
		facts["step"] = body.NonFinite.GetStep()
		fields["message"] = fmt.Sprintf("non-finite values in %s in step %d", body.NonFinite.GetTensor(), body.NonFinite.GetStep())
	case *commonv1.Event_Exception:
		facts["step"] = body.Exception.GetStep()
		fields["message"] = body.Exception.GetType() + ": " + body.Exception.GetMessage()
		fields["error"] = object{
			"type": body.Exception.GetType(), "message": body.Exception.GetMessage(), "stack_trace": body.Exception.GetTraceback(),
		}
	case *commonv1.Event_StackDump:
		facts["step"] = body.StackDump.GetLastStep()
		fields["message"] = body.StackDump.GetReason()
		fields["error"] = object{"stack_trace": body.StackDump.GetText()}
	case *commonv1.Event_NodeFault:
		fields["message"] = body.NodeFault.GetTitle()
		fields["log"] = object{"logger": body.NodeFault.GetSource(), "level": enumText(body.NodeFault.GetSeverity(), "FAULT_SEVERITY_")}
		fields["event"].(object)["original"] = body.NodeFault.GetMessage()
	case *commonv1.Event_KeyUsed:
		fields["message"] = fmt.Sprintf("key %s was used: %s", body.KeyUsed.GetKekId(), body.KeyUsed.GetUse())
	case *commonv1.Event_AttemptEnded:
		fields["message"] = body.AttemptEnded.GetExplanation()
	}
}

// finite sets a number that an index can take.
func finite(facts object, name string, value *float64) {
	if value != nil && !math.IsNaN(*value) && !math.IsInf(*value, 0) {
		facts[name] = *value
	}
}

func set(facts object, name, text string) {
	if text != "" {
		facts[name] = text
	}
}

// traced adds the W3C trace context, where there is one.
func traced(fields object, traceparent string) {
	if parts := strings.Split(traceparent, "-"); len(parts) == 4 {
		fields["trace"] = object{"id": parts[1]}
		fields["span"] = object{"id": parts[2]}
	}
}

func enumText(value protoreflect.Enum, prefix string) string {
	name := value.Descriptor().Values().ByNumber(value.Number())
	if name == nil {
		return fmt.Sprint(value.Number())
	}
	return strings.ToLower(strings.TrimPrefix(string(name.Name()), prefix))
}

// recordDocuments gives the documents of a record of the store that are of streams
// which are taken.
func recordDocuments(record store.ExportRecord, takes func(streams ...string) bool) ([]Document, error) {
	document := Document{Received: record.Recorded}
	var err error
	switch record.Kind {
	case store.ExportFinding:
		if !takes(StreamFindings) {
			return nil, nil
		}
		err = findingDocument(&document, record)
	case store.ExportIncident:
		if !takes(StreamIncidents) {
			return nil, nil
		}
		err = incidentDocument(&document, record)
	case store.ExportTelemetry:
		said := &commonv1.Telemetry{}
		if err = proto.Unmarshal(record.Body, said); err == nil {
			if !takes(streamOfSignal(said.GetSignal())) {
				return nil, nil
			}
			return telemetryDocuments(origin{id: record.ID, received: record.Recorded}, said)
		}
		err = fault.Mark(fault.Corrupt, err)
	default:
		err = fault.New(fault.Unsupported, "its kind %q is not known", record.Kind)
	}
	if err != nil {
		return nil, fmt.Errorf("write record %d: %w", record.Sequence, err)
	}
	return []Document{document}, nil
}

func findingDocument(document *Document, record store.ExportRecord) error {
	f := &controlv1.Finding{}
	if err := proto.Unmarshal(record.Body, f); err != nil {
		return fault.Mark(fault.Corrupt, err)
	}
	body, err := plainJSON(f)
	if err != nil {
		return err
	}
	document.Stream, document.ID, document.Time = StreamFindings, f.GetFindingId(), record.Recorded
	if f.GetEventTime() != nil {
		document.Time = f.GetEventTime().AsTime()
	}
	fields := base(document.Time, record.Recorded, StreamFindings, "signal")
	facts := object{"node": f.GetNode(), "attempt": f.GetAttempt(), "rank": f.GetRank(), "step": f.GetStep(), "onset_step": f.GetOnsetStep(), "body": body}
	set(facts, "run", f.GetRunId())
	fields["vigil"], fields["message"] = facts, f.GetSummary()
	about(fields, f.GetFindingId(), f.GetKind(), enumText(f.GetSeverity(), "SEVERITY_"), f.GetNode())
	document.Fields = fields
	return nil
}

func incidentDocument(document *Document, record store.ExportRecord) error {
	i := &controlv1.Incident{}
	if err := proto.Unmarshal(record.Body, i); err != nil {
		return fault.Mark(fault.Corrupt, err)
	}
	body, err := plainJSON(i)
	if err != nil {
		return err
	}
	document.Stream, document.Time = StreamIncidents, record.Recorded
	document.ID = fmt.Sprintf("%s-%d", i.GetIncidentId(), record.Sequence)
	fields := base(record.Recorded, record.Recorded, StreamIncidents, "alert")
	facts := object{"incident": i.GetIncidentId(), "state": enumText(i.GetState(), "INCIDENT_STATE_"), "body": body}
	set(facts, "run", i.GetRunId())
	set(facts, "node", i.GetNode())
	fields["vigil"], fields["message"] = facts, i.GetSummary()
	about(fields, document.ID, i.GetKind(), enumText(i.GetSeverity(), "SEVERITY_"), i.GetNode())
	document.Fields = fields
	return nil
}

// about adds what findings and incidents have in common.
func about(fields object, id, kind, severity, node string) {
	event := fields["event"].(object)
	event["id"], event["action"], event["reason"] = id, kind, severity
	if node != "" {
		fields["host"] = object{"name": node}
	}
}
