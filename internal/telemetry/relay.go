package telemetry

import (
	"context"
	"errors"
	"fmt"
	"sync"

	collectorlogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// MaxOTLPBytes is the largest request that a relay hands on; what is larger goes
// in parts.
const MaxOTLPBytes = 1 << 20

// Relay is where OpenTelemetry's exporters of this process send to: instead of
// a server's, the requests become the process' own, which keeps them for as long
// as it takes. Its methods are safe for concurrent use.
type Relay struct {
	conn *grpc.ClientConn
	lost func(signal string)

	once     sync.Once
	attached chan struct{}
	take     func(ctx context.Context, t *commonv1.Telemetry) error
}

// NewRelay makes a relay. Until [Relay.Attach] requests wait, for as long as
// the exporters give them. Lost is told the signal of each request that was not
// kept, or not all of it; nil: nobody is told. The caller closes the relay.
func NewRelay(lost func(signal string)) (*Relay, error) {
	r := &Relay{lost: lost, attached: make(chan struct{})}
	if r.lost == nil {
		r.lost = func(string) {}
	}
	var err error
	// The name is resolved by nobody: each call ends in the interceptor.
	r.conn, err = grpc.NewClient("passthrough:///vigil",
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUnaryInterceptor(r.intercept))
	if err != nil {
		return nil, fmt.Errorf("make relay of telemetry: %w", err)
	}
	return r, nil
}

// Attach sets who keeps the requests. Only the first call counts. Take is called
// concurrently; it does not log through a logger that the relay serves, which
// would never end.
func (r *Relay) Attach(take func(ctx context.Context, t *commonv1.Telemetry) error) {
	r.once.Do(func() {
		r.take = take
		close(r.attached)
	})
}

// Close ends what waits.
func (r *Relay) Close() error { return r.conn.Close() }

// intercept takes a call in a server's place.
func (r *Relay) intercept(ctx context.Context, _ string, request, _ any, _ *grpc.ClientConn, _ grpc.UnaryInvoker, _ ...grpc.CallOption) error {
	signal := signalOf(request)
	err := r.keep(ctx, signal, request)
	if err != nil {
		r.lost(SignalName(signal))
	}
	return fault.GRPC(err)
}

func (r *Relay) keep(ctx context.Context, signal commonv1.Signal, request any) error {
	message, ok := request.(proto.Message)
	if !ok || signal == commonv1.Signal_SIGNAL_UNSPECIFIED {
		return fault.New(fault.Internal, "keep telemetry: %T is none", request)
	}
	select {
	case <-r.attached:
	case <-ctx.Done():
		return fault.New(fault.Internal, "keep telemetry: nobody takes it yet")
	}
	return r.put(ctx, signal, message)
}

// put hands a request on, in parts when it is too large. Of one that is too large
// and has a single record nothing can be kept; the others are.
func (r *Relay) put(ctx context.Context, signal commonv1.Signal, message proto.Message) error {
	data, err := proto.Marshal(message)
	if err != nil {
		return fault.New(fault.Internal, "keep telemetry: %w", err)
	}
	if len(data) > MaxOTLPBytes {
		first, second, ok := halve(message)
		if !ok {
			return fault.New(fault.Invalid, "keep telemetry: %d bytes of one record are more than %d", len(data), MaxOTLPBytes)
		}
		return errors.Join(r.put(ctx, signal, first), r.put(ctx, signal, second))
	}
	// The error is final for the exporter, which else would send the same again
	// without knowing whether it was kept.
	if err := r.take(ctx, &commonv1.Telemetry{Signal: signal, Otlp: data}); err != nil {
		return fault.New(fault.Internal, "keep telemetry: %w", err)
	}
	return nil
}

func signalOf(request any) commonv1.Signal {
	switch request.(type) {
	case *collectortrace.ExportTraceServiceRequest:
		return commonv1.Signal_SIGNAL_TRACES
	case *collectorlogs.ExportLogsServiceRequest:
		return commonv1.Signal_SIGNAL_LOGS
	case *collectormetrics.ExportMetricsServiceRequest:
		return commonv1.Signal_SIGNAL_METRICS
	}
	return commonv1.Signal_SIGNAL_UNSPECIFIED
}

// SignalName is a signal as metrics and settings have it: traces, logs, metrics.
func SignalName(signal commonv1.Signal) string {
	switch signal {
	case commonv1.Signal_SIGNAL_TRACES:
		return "traces"
	case commonv1.Signal_SIGNAL_LOGS:
		return "logs"
	case commonv1.Signal_SIGNAL_METRICS:
		return "metrics"
	}
	return "unknown"
}
