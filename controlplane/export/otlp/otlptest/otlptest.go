// Package otlptest is a receiver of OTLP that decodes what it is sent and holds
// it to the protocol's rules. It can be away, put off, refuse, and take a request
// without anybody learning of it.
package otlptest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"

	collectorlogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlpcommon "go.opentelemetry.io/proto/otlp/common/v1"
	otlplogs "go.opentelemetry.io/proto/otlp/logs/v1"
	otlpmetrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	otlpresource "go.opentelemetry.io/proto/otlp/resource/v1"
	otlptrace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // exporters compress
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/vigil-ml/vigil/internal/life"
)

// Log is a log record that was taken.
type Log struct {
	UID      string // log.record.uid
	Record   *otlplogs.LogRecord
	Resource *otlpresource.Resource
}

// Span is a span that was taken.
type Span struct {
	*otlptrace.Span
	Resource *otlpresource.Resource
}

// Fault says what becomes of a request; n counts all of them, from 1. With an
// error the request is answered with it, and the records are kept all the same
// when taken is set.
type Fault func(n int, signal string) (taken bool, err error)

// Receiver is the receiver. Its methods are safe for concurrent use.
type Receiver struct {
	t  testing.TB
	mu sync.Mutex

	fault    Fault
	requests int
	headers  metadata.MD
	logs     []Log
	spans    []Span
	metrics  []*otlpmetrics.ResourceMetrics
	address  string
	stop     func()
}

// New starts a receiver on a free port of loopback; it ends with the test.
func New(t testing.TB) *Receiver {
	t.Helper()
	r := &Receiver{t: t}
	r.Start()
	t.Cleanup(func() { r.Stop() })
	return r
}

// Start listens; after Stop, on the same port again.
func (r *Receiver) Start() {
	r.t.Helper()
	address := r.address
	if address == "" {
		address = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		r.t.Fatal(err)
	}
	server := grpc.NewServer()
	collectortrace.RegisterTraceServiceServer(server, traceService{r: r})
	collectorlogs.RegisterLogsServiceServer(server, logsService{r: r})
	collectormetrics.RegisterMetricsServiceServer(server, metricsService{r: r})
	group := life.NewGroup(context.Background())
	group.Go("otlp receiver", func(context.Context) error { return server.Serve(listener) })
	r.address = listener.Addr().String()
	r.stop = func() {
		server.Stop()
		if err := group.Wait(); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			r.t.Error(err)
		}
	}
}

// Stop stops listening: whoever asks is refused the connection.
func (r *Receiver) Stop() {
	if r.stop != nil {
		r.stop()
		r.stop = nil
	}
}

// Address is host:port.
func (r *Receiver) Address() string { return r.address }

// Fail sets what becomes of requests; nil takes all.
func (r *Receiver) Fail(fault Fault) { r.mu.Lock(); defer r.mu.Unlock(); r.fault = fault }

// Requests is how many there were.
func (r *Receiver) Requests() int { r.mu.Lock(); defer r.mu.Unlock(); return r.requests }

// Headers are those of the last request.
func (r *Receiver) Headers() metadata.MD { r.mu.Lock(); defer r.mu.Unlock(); return r.headers }

// Logs are all log records, in the order in which they came.
func (r *Receiver) Logs() []Log {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Log(nil), r.logs...)
}

// Spans are all spans.
func (r *Receiver) Spans() []Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Span(nil), r.spans...)
}

// Metrics are all metrics.
func (r *Receiver) Metrics() []*otlpmetrics.ResourceMetrics {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*otlpmetrics.ResourceMetrics(nil), r.metrics...)
}

// Times counts how often each log record came, by its id.
func (r *Receiver) Times() map[string]int {
	times := map[string]int{}
	for _, l := range r.Logs() {
		times[l.UID]++
	}
	return times
}

// take decides over a request and, where it is taken, keeps it.
func (r *Receiver) take(ctx context.Context, signal string, keep func()) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests++
	r.headers, _ = metadata.FromIncomingContext(ctx)
	if r.fault != nil {
		taken, err := r.fault(r.requests, signal)
		if err != nil {
			if taken {
				keep()
			}
			return err
		}
	}
	keep()
	return nil
}

// wrong reports a breach of the protocol.
func (r *Receiver) wrong(format string, args ...any) {
	r.t.Errorf("OTLP: "+format, args...)
}

func (r *Receiver) resource(of *otlpresource.Resource) {
	if Attribute(of.GetAttributes(), "service.name") == "" {
		r.wrong("a resource has no service.name: %s", protojson.Format(of))
	}
}

// Attribute gives a text among attributes; "" when there is none.
func Attribute(all []*otlpcommon.KeyValue, key string) string {
	for _, a := range all {
		if a.GetKey() == key {
			return a.GetValue().GetStringValue()
		}
	}
	return ""
}

type traceService struct {
	collectortrace.UnimplementedTraceServiceServer
	r *Receiver
}

// Export takes spans.
func (s traceService) Export(ctx context.Context, in *collectortrace.ExportTraceServiceRequest) (*collectortrace.ExportTraceServiceResponse, error) {
	return &collectortrace.ExportTraceServiceResponse{}, s.r.take(ctx, "traces", func() {
		for _, of := range in.GetResourceSpans() {
			s.r.resource(of.GetResource())
			for _, scope := range of.GetScopeSpans() {
				for _, span := range scope.GetSpans() {
					if err := checkSpan(span); err != nil {
						s.r.wrong("span %q: %v", span.GetName(), err)
					}
					s.r.spans = append(s.r.spans, Span{span, of.GetResource()})
				}
			}
		}
	})
}

func checkSpan(span *otlptrace.Span) error {
	switch {
	case len(span.GetTraceId()) != 16 || len(span.GetSpanId()) != 8:
		return fmt.Errorf("its ids have %d and %d bytes", len(span.GetTraceId()), len(span.GetSpanId()))
	case len(span.GetParentSpanId()) != 0 && len(span.GetParentSpanId()) != 8:
		return fmt.Errorf("its parent's id has %d bytes", len(span.GetParentSpanId()))
	case span.GetName() == "":
		return errors.New("it has no name")
	case span.GetStartTimeUnixNano() == 0 || span.GetEndTimeUnixNano() < span.GetStartTimeUnixNano():
		return errors.New("it ends before it begins")
	}
	return nil
}

type logsService struct {
	collectorlogs.UnimplementedLogsServiceServer
	r *Receiver
}

// Export takes log records.
func (s logsService) Export(ctx context.Context, in *collectorlogs.ExportLogsServiceRequest) (*collectorlogs.ExportLogsServiceResponse, error) {
	return &collectorlogs.ExportLogsServiceResponse{}, s.r.take(ctx, "logs", func() {
		for _, of := range in.GetResourceLogs() {
			s.r.resource(of.GetResource())
			for _, scope := range of.GetScopeLogs() {
				for _, record := range scope.GetLogRecords() {
					uid := Attribute(record.GetAttributes(), "log.record.uid")
					if err := checkLog(record, uid); err != nil {
						s.r.wrong("log record %s: %v", protojson.Format(record), err)
					}
					s.r.logs = append(s.r.logs, Log{UID: uid, Record: record, Resource: of.GetResource()})
				}
			}
		}
	})
}

func checkLog(record *otlplogs.LogRecord, uid string) error {
	names := map[string]bool{}
	for _, a := range record.GetAttributes() {
		if names[a.GetKey()] {
			return fmt.Errorf("attribute %q is there twice", a.GetKey())
		}
		names[a.GetKey()] = true
	}
	switch {
	case uid == "":
		return errors.New("it has no log.record.uid")
	case record.GetTimeUnixNano() == 0 && record.GetObservedTimeUnixNano() == 0:
		return errors.New("it has no time")
	case len(record.GetTraceId()) != 0 && len(record.GetTraceId()) != 16, len(record.GetSpanId()) != 0 && len(record.GetSpanId()) != 8:
		return errors.New("its ids have another size")
	case record.GetSeverityNumber() < 0 || record.GetSeverityNumber() > 24:
		return fmt.Errorf("severity %d is none", record.GetSeverityNumber())
	}
	return nil
}

type metricsService struct {
	collectormetrics.UnimplementedMetricsServiceServer
	r *Receiver
}

// Export takes metrics.
func (s metricsService) Export(ctx context.Context, in *collectormetrics.ExportMetricsServiceRequest) (*collectormetrics.ExportMetricsServiceResponse, error) {
	return &collectormetrics.ExportMetricsServiceResponse{}, s.r.take(ctx, "metrics", func() {
		for _, of := range in.GetResourceMetrics() {
			s.r.resource(of.GetResource())
			for _, scope := range of.GetScopeMetrics() {
				for _, m := range scope.GetMetrics() {
					if err := checkMetric(m); err != nil {
						s.r.wrong("metric %q: %v", m.GetName(), err)
					}
				}
			}
			s.r.metrics = append(s.r.metrics, of)
		}
	})
}

func checkMetric(m *otlpmetrics.Metric) error {
	if m.GetName() == "" {
		return errors.New("it has no name")
	}
	switch data := m.GetData().(type) {
	case *otlpmetrics.Metric_Gauge:
		return checkPoints(data.Gauge.GetDataPoints())
	case *otlpmetrics.Metric_Sum:
		if data.Sum.GetAggregationTemporality() != otlpmetrics.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE {
			return errors.New("its sum is not cumulative")
		}
		return checkPoints(data.Sum.GetDataPoints())
	case *otlpmetrics.Metric_Histogram:
		for _, p := range data.Histogram.GetDataPoints() {
			if len(p.GetBucketCounts()) != len(p.GetExplicitBounds())+1 || p.GetTimeUnixNano() == 0 {
				return fmt.Errorf("%d counts for %d bounds", len(p.GetBucketCounts()), len(p.GetExplicitBounds()))
			}
			for _, e := range p.GetExemplars() {
				if len(e.GetTraceId()) != 16 || len(e.GetSpanId()) != 8 {
					return fmt.Errorf("the ids of an exemplar's trace have %d and %d bytes", len(e.GetTraceId()), len(e.GetSpanId()))
				}
			}
		}
	case *otlpmetrics.Metric_Summary, *otlpmetrics.Metric_ExponentialHistogram:
	default:
		return fmt.Errorf("%T is no data", data)
	}
	return nil
}

func checkPoints(points []*otlpmetrics.NumberDataPoint) error {
	if len(points) == 0 {
		return errors.New("it has no points")
	}
	for _, p := range points {
		if p.GetTimeUnixNano() == 0 || p.GetValue() == nil {
			return errors.New("a point has no time or value")
		}
	}
	return nil
}
