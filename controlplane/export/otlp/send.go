package otlp

import (
	"context"
	"strings"
	"time"

	collectorlogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlplogs "go.opentelemetry.io/proto/otlp/logs/v1"
	otlpmetrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	otlptrace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/controlplane/export"
	"github.com/vigil-ml/vigil/internal/fault"
)

// signal is what a request holds.
type signal int

const (
	traces signal = iota
	logs
	metrics
)

// item is one document as a request has it.
type item struct {
	index  int // of the document and its verdict
	signal signal
	size   int
	body   proto.Message
}

func itemOf(index int, d export.Document) item {
	it := item{index: index, signal: logs, body: d.OTLP}
	switch d.OTLP.(type) {
	case *otlptrace.ResourceSpans:
		it.signal = traces
	case *otlpmetrics.ResourceMetrics:
		it.signal = metrics
	case *otlplogs.ResourceLogs:
	default:
		it.body = logOf(d)
	}
	it.size = proto.Size(it.body)
	return it
}

// rejected is how many of a request's records the receiver did not take, though
// it took the request, and why.
type rejected struct {
	records int64
	why     string
}

// call sends one request.
func (e *exporter) call(ctx context.Context, s signal, items []item) (r rejected, err error) {
	ctx, cancel, err := e.context(ctx)
	if err != nil {
		return r, err
	}
	defer cancel()
	switch s {
	case traces:
		in := &collectortrace.ExportTraceServiceRequest{}
		for _, it := range items {
			in.ResourceSpans = append(in.ResourceSpans, it.body.(*otlptrace.ResourceSpans))
		}
		out, err := collectortrace.NewTraceServiceClient(e.conn).Export(ctx, in)
		return rejected{out.GetPartialSuccess().GetRejectedSpans(), out.GetPartialSuccess().GetErrorMessage()}, err
	case metrics:
		in := &collectormetrics.ExportMetricsServiceRequest{}
		for _, it := range items {
			in.ResourceMetrics = append(in.ResourceMetrics, it.body.(*otlpmetrics.ResourceMetrics))
		}
		out, err := collectormetrics.NewMetricsServiceClient(e.conn).Export(ctx, in)
		return rejected{out.GetPartialSuccess().GetRejectedDataPoints(), out.GetPartialSuccess().GetErrorMessage()}, err
	default:
		in := &collectorlogs.ExportLogsServiceRequest{}
		for _, it := range items {
			in.ResourceLogs = append(in.ResourceLogs, it.body.(*otlplogs.ResourceLogs))
		}
		out, err := collectorlogs.NewLogsServiceClient(e.conn).Export(ctx, in)
		return rejected{out.GetPartialSuccess().GetRejectedLogRecords(), out.GetPartialSuccess().GetErrorMessage()}, err
	}
}

// send sends items in one request and notes their verdicts. What is too large
// for the receiver is sent in halves, and so is what it cannot read: then one
// document is to blame. It gives how many items, from the first on, are settled:
// all, unless there is an error.
func (e *exporter) send(ctx context.Context, s signal, items []item, verdicts []export.Verdict) (settled int, err error) {
	r, err := e.call(ctx, s, items)
	switch {
	case err != nil && !divisible(err):
		return 0, failure(err)
	case err != nil && len(items) == 1:
		verdicts[items[0].index] = export.Verdict{Outcome: export.Refused, Reason: status.Convert(err).Message()}
		return 1, nil
	case err != nil:
		half := len(items) / 2
		if settled, err = e.send(ctx, s, items[:half], verdicts); err != nil {
			return settled, err
		}
		settled, err = e.send(ctx, s, items[half:], verdicts)
		return half + settled, err
	}
	e.judge(s, items, r, verdicts)
	return len(items), nil
}

// judge notes what became of a request that was taken.
func (e *exporter) judge(s signal, items []item, r rejected, verdicts []export.Verdict) {
	if r.records == 0 {
		return
	}
	// OTLP does not say which, and what was taken must not be sent again.
	if len(items) == 1 || (s != metrics && r.records >= int64(len(items))) {
		for _, it := range items {
			verdicts[it.index] = export.Verdict{Outcome: export.Refused, Reason: r.why}
		}
		return
	}
	e.deps.Log.Warn("the OTLP receiver left out records of a request; it does not say which", "exporter", e.deps.Name,
		"records", r.records, "of", len(items), "reason", r.why)
}

// divisible tells whether an error is a document's own fault, or the request's
// size.
func divisible(err error) bool {
	s := status.Convert(err)
	switch s.Code() {
	case codes.InvalidArgument:
		return true
	case codes.ResourceExhausted:
		return strings.Contains(s.Message(), "message larger than max")
	}
	return false
}

// failure is a receiver's error as one of ours. All that is no document's fault
// is tried again: missing rights and services can be mended meanwhile.
func failure(err error) error {
	s := status.Convert(err)
	kind := fault.Unavailable
	switch s.Code() {
	case codes.Unauthenticated:
		kind = fault.Unauthenticated
	case codes.PermissionDenied:
		kind = fault.Denied
	case codes.Unimplemented:
		kind = fault.Unsupported
	}
	err = fault.New(kind, "ask OTLP receiver: %s: %s", s.Code(), s.Message())
	for _, detail := range s.Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok && retry.GetRetryDelay().AsDuration() > 0 {
			return export.RetryAfter{Wait: min(retry.GetRetryDelay().AsDuration(), time.Hour), Err: err}
		}
	}
	return err
}
