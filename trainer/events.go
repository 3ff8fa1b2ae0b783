package trainer

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/vigil-ml/vigil/internal/telemetry"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// NonFinite says that a step was stopped because a value is not finite, and
// gives the order to carry out with the state that the last good step left.
// It waits for one as long as the agent asks for ("hold", until ctx ends at
// most); when none comes, or there is no agent, the order is the process' own:
// save if an agent can be had, and restart. It is never nil.
//
// An order that lets the process train on, such as an operator's, is no answer
// and is left where it is.
func (s *Session) NonFinite(ctx context.Context, what *commonv1.NonFinite) *Order {
	ctx, span := s.deps.Tracer.Start(ctx, "vigil.nonfinite", trace.WithAttributes(
		attribute.Int64("step", what.GetStep()), attribute.String("tensor", what.GetTensor())))
	defer span.End()
	traceparent := telemetry.Traceparent(ctx)
	s.Report(&commonv1.Event{Traceparent: traceparent, Body: &commonv1.Event_NonFinite{NonFinite: what}})

	hold := time.NewTimer(s.link.patience())
	defer hold.Stop()
	for {
		if order := s.orders.take((*Order).answers); order != nil {
			return order
		}
		select {
		case <-s.orders.arrived:
			continue
		case <-hold.C:
		case <-ctx.Done():
		}
		own := Own(commonv1.CheckpointReason_CHECKPOINT_REASON_REFLEX, commonv1.AfterCheckpoint_AFTER_CHECKPOINT_RESTART)
		own.Failure, own.Traceparent = commonv1.FailureKind_FAILURE_KIND_NONFINITE, traceparent
		return own
	}
}

// Telemetry hands on what the process says of itself in OTLP's form, where the
// agent wants it; elsewhere it is left.
func (s *Session) Telemetry(said *commonv1.Telemetry) {
	if s.link.wantsTelemetry() {
		s.Report(&commonv1.Event{Body: &commonv1.Event_Telemetry{Telemetry: said}})
	}
}

// Resumed says that training goes on from a checkpoint that was loaded. The
// supervisor gets to know its step, too: failing in the first step after it is
// no progress.
func (s *Session) Resumed(ref *commonv1.CheckpointRef) {
	s.step.Store(ref.GetMetadata().GetStep())
	s.standing.resumed(ref.GetMetadata().GetStep(), ref.GetCheckpointId())
	s.Report(&commonv1.Event{Body: &commonv1.Event_Resumed{Resumed: &commonv1.Resumed{
		CheckpointId: ref.GetCheckpointId(), Step: ref.GetMetadata().GetStep(),
	}}})
}

// RunEnded says that the run is over. When Close has seen that the agent took
// the word, it also tells the supervisor, which else would say it.
func (s *Session) RunEnded(ended *commonv1.RunEnded) {
	s.Report(&commonv1.Event{Body: &commonv1.Event_RunEnded{RunEnded: ended}})
	s.ended.Store(true)
}
