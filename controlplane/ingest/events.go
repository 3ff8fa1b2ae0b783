package ingest

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"

	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/protocol"
	"github.com/vigil-ml/vigil/internal/telemetry"
)

// Results of frames and samples, as the metrics name them.
const (
	resultStored   = "stored"
	resultRepeated = "repeated"
	resultRefused  = "refused"
	resultHeld     = "held" // for want of memory
)

// storeEvents writes an event frame to the bus and stores the metrics of its step
// reports, also of a repeat: the control plane may have died between the two. The
// frame is acknowledged when it has settled there.
func (x *session) storeEvents(ctx context.Context, frame *agentv1.Frame) (result string, err error) {
	batch := frame.GetEvents()
	if err := x.checkEvents(frame, batch); err != nil {
		return resultRefused, err
	}
	result = resultRepeated
	if compare(frame.Position, x.durable) > 0 {
		result = resultStored
		if err := x.publish(ctx, frame.Position, batch); err != nil {
			return resultRefused, err
		}
		x.durable = frame.Position
	}
	for _, event := range batch.Events {
		counts, err := x.deps.Samples.AppendStep(ctx, x.node, event)
		if err != nil {
			// The event is safe on the bus; its points in the charts are not
			// worth holding it up.
			x.deps.Log.Error("metrics of a step are lost", "node", x.node, "run", event.RunId, "error", err)
			continue
		}
		x.count(counts)
	}
	return result, nil
}

// checkEvents fills in what the session knows of the events and refuses a
// batch that contradicts it.
func (x *session) checkEvents(frame *agentv1.Frame, batch *agentv1.EventBatch) error {
	if batch == nil {
		return fault.New(fault.Invalid, "events frame %s carries no events but %T", at(frame), frame.Payload)
	}
	for i, event := range batch.Events {
		if event.Node == "" {
			event.Node = x.node
		}
		if event.RunId == "" {
			event.RunId = batch.RunId
		}
		if event.Node != x.node || event.RunId != batch.RunId {
			return fault.New(fault.Invalid, "events frame %s of node %s, run %q: its event %d is of node %q, run %q",
				at(frame), x.node, batch.RunId, i, event.Node, event.RunId)
		}
		if err := checkKind(event); err != nil {
			return fault.New(fault.Invalid, "events frame %s of node %s, its event %d: %w", at(frame), x.node, i, err)
		}
	}
	return nil
}

// checkKind refuses a run's event without a run, a node's own with one, and what
// only the control plane may say.
func checkKind(event *commonv1.Event) error {
	switch ofNode := protocol.OfNode(event); {
	case event.GetNodeLink() != nil:
		return fault.New(fault.Invalid, "whether a node is heard of is the control plane's to say")
	case ofNode && event.RunId != "":
		return fault.New(fault.Invalid, "it is of the node itself and names run %q", event.RunId)
	case !ofNode && event.RunId == "" && !protocol.OfEither(event):
		return fault.New(fault.Invalid, "it names no run, and is none of the node itself")
	}
	return nil
}

// publish writes a batch to the bus. Each event that belongs to a trace gets a span, and
// goes on as that span's child.
func (x *session) publish(ctx context.Context, position *agentv1.Position, batch *agentv1.EventBatch) error {
	var spans []trace.Span
	for _, event := range batch.Events {
		if event.Traceparent == "" {
			continue
		}
		ctx, span := x.deps.Tracer.Start(telemetry.WithTraceparent(ctx, event.Traceparent), "vigil.ingest",
			trace.WithAttributes(attribute.String("vigil.node", x.node), attribute.String("vigil.run", batch.RunId)))
		if own := telemetry.Traceparent(ctx); own != "" {
			event.Traceparent = own
		}
		spans = append(spans, span)
	}
	written, err := x.deps.Bus.Write(ctx, bus.Message{
		Node: x.node, Position: position, Received: x.deps.Clock(), Batch: batch,
	})
	x.written = max(x.written, written)
	for _, span := range spans {
		if err != nil {
			span.SetStatus(codes.Error, err.Error())
		}
		span.End()
	}
	return err
}
