package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/contrib/bridges/otelslog"
	prometheusbridge "go.opentelemetry.io/contrib/bridges/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploggrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

const (
	scope = "github.com/vigil-ml/vigil"

	// A batch of logs or spans is handed on when it has so many, or is so old.
	batchRecords = 256
	batchAge     = 2 * time.Second
	// queueRecords bounds what waits; beyond it the newest spans and the oldest
	// log records are dropped by OpenTelemetry's processors.
	queueRecords = 2048
	// maxAttributeBytes keeps a record well below what the relay takes at once.
	maxAttributeBytes = 2048
	// metricsEvery is how often the registry is read.
	metricsEvery = 30 * time.Second
)

// Wanted is what a program says of itself besides its log and /metrics.
type Wanted struct {
	Traces, Logs bool
	// Metrics are read from the registry; nil: none are wanted.
	Metrics *prometheus.Registry
	// MetricsEvery is how often; 0 means 30 s.
	MetricsEvery time.Duration
}

// Provided is what a program writes to.
type Provided struct {
	Tracer trace.Tracer // does nothing where traces are not wanted
	Logs   slog.Handler // nil where logs are not wanted
	relay  *Relay
	ends   []func(context.Context) error
}

// Who is the program that speaks.
type Who struct {
	Program string // service.name
	Version string // service.version
	// Instance tells it from others of its kind: service.instance.id.
	Instance string
	// More are attributes of its own, such as vigil.run.
	More map[string]string
}

// Provide makes what hands spans, logs and metrics to a relay, by OpenTelemetry's
// own exporters. [Provided.Close] hands on the rest and closes the relay too.
func Provide(ctx context.Context, who Who, wanted Wanted, relay *Relay) (*Provided, error) {
	p := &Provided{Tracer: noop.NewTracerProvider().Tracer(who.Program), relay: relay}
	from := who.resource()
	if wanted.Traces {
		exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithGRPCConn(relay.conn))
		if err != nil {
			return nil, fmt.Errorf("make exporter of spans: %w", err)
		}
		provider := sdktrace.NewTracerProvider(sdktrace.WithResource(from), sdktrace.WithRawSpanLimits(spanLimits()),
			sdktrace.WithBatcher(exporter, sdktrace.WithBatchTimeout(batchAge), sdktrace.WithMaxExportBatchSize(batchRecords), sdktrace.WithMaxQueueSize(queueRecords)))
		p.Tracer, p.ends = provider.Tracer(scope), append(p.ends, provider.Shutdown)
	}
	if wanted.Logs {
		exporter, err := otlploggrpc.New(ctx, otlploggrpc.WithGRPCConn(relay.conn))
		if err != nil {
			return nil, fmt.Errorf("make exporter of logs: %w", err)
		}
		provider := sdklog.NewLoggerProvider(sdklog.WithResource(from), sdklog.WithAttributeValueLengthLimit(maxAttributeBytes),
			sdklog.WithProcessor(sdklog.NewBatchProcessor(exporter, sdklog.WithExportInterval(batchAge),
				sdklog.WithExportMaxBatchSize(batchRecords), sdklog.WithMaxQueueSize(queueRecords))))
		p.Logs = otelslog.NewHandler(scope, otelslog.WithLoggerProvider(provider))
		p.ends = append(p.ends, provider.Shutdown)
	}
	if wanted.Metrics != nil {
		exporter, err := otlpmetricgrpc.New(ctx, otlpmetricgrpc.WithGRPCConn(relay.conn))
		if err != nil {
			return nil, fmt.Errorf("make exporter of metrics: %w", err)
		}
		every := wanted.MetricsEvery
		if every <= 0 {
			every = metricsEvery
		}
		reader := sdkmetric.NewPeriodicReader(exporter, sdkmetric.WithInterval(every),
			sdkmetric.WithProducer(decoded{prometheusbridge.NewMetricProducer(prometheusbridge.WithGatherer(wanted.Metrics))}))
		provider := sdkmetric.NewMeterProvider(sdkmetric.WithResource(from), sdkmetric.WithReader(reader))
		p.ends = append(p.ends, provider.Shutdown)
	}
	return p, nil
}

// Close hands on what waits, for as long as ctx gives it.
func (p *Provided) Close(ctx context.Context) error {
	var all []error
	for _, end := range p.ends {
		all = append(all, end(ctx))
	}
	if p.relay != nil {
		all = append(all, p.relay.Close())
	}
	return errors.Join(all...)
}

func (w Who) resource() *resource.Resource {
	all := []attribute.KeyValue{attribute.String("service.name", w.Program), attribute.String("service.namespace", "vigil")}
	if w.Version != "" {
		all = append(all, attribute.String("service.version", w.Version))
	}
	if w.Instance != "" {
		all = append(all, attribute.String("service.instance.id", w.Instance))
	}
	for key, value := range w.More {
		all = append(all, attribute.String(key, value))
	}
	return resource.NewSchemaless(all...)
}

func spanLimits() sdktrace.SpanLimits {
	limits := sdktrace.NewSpanLimits()
	limits.AttributeValueLengthLimit = maxAttributeBytes
	return limits
}
