package api

import (
	"context"
	"errors"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/vigil-ml/vigil/controlplane/load"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/metric"
)

// errGoingDown is why a stream ends before its time.
var errGoingDown = fault.WithHint(fault.New(fault.Unavailable, "the control plane goes down"), "try again in a moment")

// boundary is what every call passes on its way in and out.
type boundary struct {
	log      *slog.Logger
	clock    func() time.Time
	load     *load.Gauge
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

func newBoundary(deps Deps) *boundary {
	return &boundary{
		log:      deps.Log,
		clock:    deps.Clock,
		load:     deps.Load,
		requests: metric.NewCounter(deps.Metrics, metric.ControlRequests),
		seconds:  metric.NewLatency(deps.Metrics, metric.ControlRequestSeconds),
	}
}

func (b *boundary) unary(ctx context.Context, in any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (out any, err error) {
	err = b.call(info.FullMethod, func() (err error) {
		out, err = handle(ctx, in)
		return err
	})
	return out, err
}

// streamUntil gives streams a context that also ends with the server's.
func (b *boundary) streamUntil(serverCtx context.Context) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
		ctx, cancel := context.WithCancelCause(stream.Context())
		defer cancel(context.Canceled)
		defer context.AfterFunc(serverCtx, func() { cancel(errGoingDown) })()
		return b.call(info.FullMethod, func() error {
			err := handle(srv, endingStream{stream, func() context.Context { return ctx }})
			if errors.Is(context.Cause(ctx), errGoingDown) {
				return errGoingDown
			}
			return err
		})
	}
}

// endingStream is a stream with another context.
type endingStream struct {
	grpc.ServerStream
	context func() context.Context
}

// Context is the call's context.
func (s endingStream) Context() context.Context { return s.context() }

// call runs one call, counts it, and gives its error the shape in which it
// leaves the control plane.
func (b *boundary) call(method string, run func() error) error {
	begun := b.clock()
	err := b.load.Admit(load.Calls)
	if err == nil {
		err = b.guard(method, run)
	}
	if fault.Is(err, fault.Internal) {
		// The caller cannot mend this; whoever runs the control plane must.
		b.log.Error("request failed", "method", method, "error", err)
	}
	left := leaving(err)
	b.requests.WithLabelValues(method, status.Code(left).String()).Inc()
	b.seconds.WithLabelValues(method).Observe(b.clock().Sub(begun).Seconds())
	return left
}

// guard turns a panic into an error.
func (b *boundary) guard(method string, run func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			b.log.Error("request panicked", "method", method, "panic", p, "stack", string(debug.Stack()))
			err = fault.New(fault.Internal, "the control plane has a bug: %v", p)
		}
	}()
	return run()
}

// leaving gives an error its gRPC code. The hint is in the text, for those who
// see only that, and also as a detail, for programs that show it by itself.
func leaving(err error) error {
	if err == nil {
		return nil
	}
	s := status.Convert(fault.GRPC(err))
	if hint := fault.HintOf(err); hint != "" {
		detailed, detailErr := s.WithDetails(&errdetails.Help{Links: []*errdetails.Help_Link{{Description: hint}}})
		if detailErr == nil {
			return detailed.Err()
		}
	}
	return s.Err()
}
