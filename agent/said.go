package agent

import (
	"context"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/vigil-ml/vigil/agent/journal"
	"github.com/vigil-ml/vigil/internal/telemetry"
	"github.com/vigil-ml/vigil/internal/version"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// flushTime is how long the last spans and log records may take.
const flushTime = 3 * time.Second

// said is where the agent's spans and logs go: to a receiver of OTLP, or as
// events to the control plane.
type said struct {
	tracer trace.Tracer
	logs   slog.Handler // nil when they only go to the log
	relay  *telemetry.Relay
	ends   []func(context.Context) error
}

func newSaid(ctx context.Context, config Config) (*said, error) {
	tracer, flush, err := telemetry.Tracer(ctx, config.Trace, "vigil-agent")
	if err != nil {
		return nil, err
	}
	s := &said{tracer: tracer, ends: []func(context.Context) error{flush}}
	wanted := telemetry.Wanted{Traces: config.Forward.Traces && config.Trace.OTLPEndpoint == "", Logs: config.Forward.Logs}
	if !wanted.Traces && !wanted.Logs {
		return s, nil
	}
	if s.relay, err = telemetry.NewRelay(nil); err != nil {
		return nil, err
	}
	who := telemetry.Who{Program: "vigil-agent", Version: version.String(), Instance: config.Node}
	provided, err := telemetry.Provide(ctx, who, wanted, s.relay)
	if err != nil {
		return nil, err
	}
	if wanted.Traces {
		s.tracer = provided.Tracer
	}
	s.logs, s.ends = provided.Logs, append(s.ends, provided.Close)
	return s, nil
}

// through hands on what is said, as events of the node.
func (s *said) through(j *journal.Journal) {
	if s.relay == nil {
		return
	}
	s.relay.Attach(func(ctx context.Context, t *commonv1.Telemetry) error {
		return j.Events(ctx, "", &commonv1.Event{Body: &commonv1.Event_Telemetry{Telemetry: t}})
	})
}

// flush hands on what waits and ends it. What cannot be handed on is lost; there
// is nobody left to tell.
func (s *said) flush() {
	ctx, cancel := context.WithTimeout(context.Background(), flushTime)
	defer cancel()
	for _, end := range s.ends {
		_ = end(ctx)
	}
}
