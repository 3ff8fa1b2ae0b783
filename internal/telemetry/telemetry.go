// Package telemetry gives every program the same logs, traces and metrics.
package telemetry

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/vigil-ml/vigil/internal/redact"
)

// LogConfig is what users say about logs.
type LogConfig struct {
	Level  string `yaml:"level"`  // debug, info, warn or error
	Format string `yaml:"format"` // text or json
	// Redact is regular expressions (RE2) of what is taken out of every record,
	// beside secrets and e-mail addresses, which always are.
	Redact []string `yaml:"redact"`
}

// DefaultLog is text from level info on.
func DefaultLog() LogConfig { return LogConfig{Level: "info", Format: "text"} }

// Check reports a level or format that there is not.
func (c LogConfig) Check(report func(key, format string, args ...any)) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		report("level", "is %q; want debug, info, warn or error", c.Level)
	}
	if c.Format != "text" && c.Format != "json" {
		report("format", "is %q; want text or json", c.Format)
	}
	if _, err := c.redactor(); err != nil {
		report("redact", "cannot be used: %v", err)
	}
}

func (c LogConfig) redactor() (redact.Redactor, error) {
	return redact.New(redact.Config{Secrets: true, Mail: true, Patterns: c.Redact})
}

// Logger makes a logger that writes to w, and hands what it writes to others too;
// nil ones are left out. None of them sees secrets. The configuration has been
// checked.
func Logger(w io.Writer, config LogConfig, others ...slog.Handler) *slog.Logger {
	log, _ := LeveledLogger(w, config, others...)
	return log
}

// LeveledLogger is Logger with what sets its level while it is in use.
func LeveledLogger(w io.Writer, config LogConfig, others ...slog.Handler) (log *slog.Logger, setLevel func(name string)) {
	var level slog.LevelVar
	setLevel = func(name string) {
		var l slog.Level
		_ = l.UnmarshalText([]byte(name)) // was checked
		level.Set(l)
	}
	setLevel(config.Level)
	options := &slog.HandlerOptions{Level: &level}
	var handler slog.Handler = slog.NewTextHandler(w, options)
	if config.Format == "json" {
		handler = slog.NewJSONHandler(w, options)
	}
	all := []slog.Handler{handler}
	for _, other := range others {
		if other != nil {
			all = append(all, leveled{other, &level})
		}
	}
	if len(all) > 1 {
		handler = slog.NewMultiHandler(all...)
	}
	clean, _ := config.redactor() // was checked
	return slog.New(clean.Handler(handler)), setLevel
}

// leveled keeps from a handler what is below a level.
type leveled struct {
	slog.Handler
	level slog.Leveler
}

// Enabled tells whether a level is said.
func (l leveled) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= l.level.Level() && l.Handler.Enabled(ctx, level)
}

// WithAttrs keeps the level.
func (l leveled) WithAttrs(attrs []slog.Attr) slog.Handler {
	return leveled{l.Handler.WithAttrs(attrs), l.level}
}

// WithGroup keeps the level.
func (l leveled) WithGroup(name string) slog.Handler {
	return leveled{l.Handler.WithGroup(name), l.level}
}

// TraceConfig is what users say about traces.
type TraceConfig struct {
	// OTLPEndpoint is host:port of an OTLP gRPC receiver; empty exports nothing.
	OTLPEndpoint string `yaml:"otlp_endpoint"`
	// Plaintext talks to it without TLS.
	Plaintext bool `yaml:"plaintext"`
}

// Tracer gives a program's tracer and what flushes and ends it; without an
// endpoint both do nothing.
func Tracer(ctx context.Context, config TraceConfig, program string) (trace.Tracer, func(context.Context) error, error) {
	if config.OTLPEndpoint == "" {
		return noop.NewTracerProvider().Tracer(program), func(context.Context) error { return nil }, nil
	}
	options := []otlptracegrpc.Option{otlptracegrpc.WithEndpoint(config.OTLPEndpoint)}
	if config.Plaintext {
		options = append(options, otlptracegrpc.WithInsecure())
	}
	exporter, err := otlptracegrpc.New(ctx, options...)
	if err != nil {
		return nil, nil, fmt.Errorf("open OTLP exporter to %s: %w", config.OTLPEndpoint, err)
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", program))),
	)
	return provider.Tracer("github.com/vigil-ml/vigil"), provider.Shutdown, nil
}

// Traceparent gives the W3C trace context of ctx's span, or "" without one.
func Traceparent(ctx context.Context) string {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier["traceparent"]
}

// WithTraceparent makes spans that are started from ctx children of a W3C
// trace context; an empty or malformed one changes nothing.
func WithTraceparent(ctx context.Context, traceparent string) context.Context {
	if traceparent == "" {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": traceparent})
}

// NewRegistry makes a registry with the Go runtime's and the process' metrics.
func NewRegistry() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}

// Handle adds /metrics and /healthz to a mux. Healthy gives nil, or what is
// wrong, which is then served with status 503.
func Handle(mux *http.ServeMux, metrics http.Handler, healthy func() error) {
	mux.Handle("GET /metrics", metrics)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if err := healthy(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ok\n")
	})
}

// Metrics serves what is registered, in the format and with the compression that
// the client asks for.
func Metrics(reg *prometheus.Registry) http.Handler {
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{EnableOpenMetrics: true})
}
