// Package otlp exports to whatever takes OTLP over gRPC: an OpenTelemetry
// collector, or a system that speaks it itself. Events, findings, incidents,
// audit records and logs go as log records, spans as spans, metrics as metrics.
//
// OTLP has no ids, and a receiver that takes a request whose answer is lost gets
// it again. Each log record therefore has its id as log.record.uid, which
// OpenTelemetry's conventions have for telling repeats; spans have ids of their
// own, and a metric that comes again has the same time.
package otlp

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"

	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/controlplane/export"
	"github.com/vigil-ml/vigil/internal/pki"
	"github.com/vigil-ml/vigil/internal/plug"
)

// Kind is the exporter's entry in the catalogue.
var Kind = plug.Of[export.Exporter, export.Deps]("otlp", Defaults(), New)

// Config is what users write.
type Config struct {
	// Endpoint is host:port of an OTLP receiver over gRPC.
	Endpoint string `yaml:"endpoint"`
	// Plaintext talks to it without TLS.
	Plaintext bool `yaml:"plaintext"`
	// CAFile has the certificates, in PEM, that the receiver's is signed by;
	// empty means those that the machine trusts.
	CAFile string `yaml:"ca_file"`
	// Headers are sent with each request, for instance a token.
	Headers map[string]notify.Secret `yaml:"headers"`
	// MaxRequestBytes is the largest request, before compression; gRPC servers
	// take 4 MiB unless they are told otherwise.
	MaxRequestBytes int `yaml:"max_request_bytes"`
	// Compress sends requests with gzip.
	Compress bool `yaml:"compress"`
	// Timeout bounds one request.
	Timeout time.Duration `yaml:"timeout"`
}

// Defaults sends requests of up to 3 MiB with TLS and gzip.
func Defaults() Config {
	return Config{MaxRequestBytes: 3 << 20, Compress: true, Timeout: 30 * time.Second}
}

// Check reports values that are out of range.
func (c Config) Check(report func(key, format string, args ...any)) {
	if _, port, err := net.SplitHostPort(c.Endpoint); err != nil || port == "" {
		report("endpoint", "is %q; want host:port, for instance collector:4317", c.Endpoint)
	}
	if c.Plaintext && c.CAFile != "" {
		report("ca_file", "stands beside plaintext; keep one of the two")
	}
	if c.MaxRequestBytes < 64<<10 {
		report("max_request_bytes", "is %d; want at least %d", c.MaxRequestBytes, 64<<10)
	}
	if c.Timeout < time.Second {
		report("timeout", "is %s; want at least 1s", c.Timeout)
	}
	for name, value := range c.Headers {
		if name == "" || strings.ToLower(name) != name || strings.HasPrefix(name, "grpc-") || strings.ContainsAny(name, " :\r\n") {
			report("headers."+name, "is no name of a header; want one in small letters")
			continue
		}
		notify.CheckSecret(report, "headers."+name, value)
	}
}

// exporter is the one of a configuration.
type exporter struct {
	config Config
	deps   export.Deps
	conn   *grpc.ClientConn
}

// New makes the exporter; it sends nothing yet. It fails when the certificates
// cannot be read.
func New(config Config, deps export.Deps) (export.Exporter, error) {
	transport := insecure.NewCredentials()
	if !config.Plaintext {
		trusted := &tls.Config{MinVersion: tls.VersionTLS12}
		if config.CAFile != "" {
			pool, err := pki.PoolOf(config.CAFile)
			if err != nil {
				return nil, fmt.Errorf("open OTLP exporter: %w", err)
			}
			trusted.RootCAs = pool
		}
		transport = credentials.NewTLS(trusted)
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(transport), grpc.WithUserAgent("vigil/" + deps.Version),
		grpc.WithConnectParams(grpc.ConnectParams{
			// The runner waits between tries; the connection must not wait longer.
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
	}
	if config.Compress {
		options = append(options, grpc.WithDefaultCallOptions(grpc.UseCompressor(gzip.Name)))
	}
	conn, err := grpc.NewClient(config.Endpoint, options...)
	if err != nil {
		return nil, fmt.Errorf("make client of OTLP receiver %s: %w", config.Endpoint, err)
	}
	return &exporter{config: config, deps: deps, conn: conn}, nil
}

// Streams are all.
func (e *exporter) Streams() []string { return export.Streams() }

// Close closes the connection.
func (e *exporter) Close() error { return e.conn.Close() }

// context bounds a request and has the headers; secrets are looked up for each.
func (e *exporter) context(ctx context.Context) (context.Context, context.CancelFunc, error) {
	for name, secret := range e.config.Headers {
		value, err := secret.Reveal()
		if err != nil {
			return nil, nil, err
		}
		ctx = metadata.AppendToOutgoingContext(ctx, name, value)
	}
	ctx, cancel := context.WithTimeout(ctx, e.config.Timeout)
	return ctx, cancel, nil
}

// Export sends documents, each kind of signal in requests as large as may be.
// When one fails behind others that were taken, it and the rest are put off.
func (e *exporter) Export(ctx context.Context, documents []export.Document) ([]export.Verdict, error) {
	verdicts := make([]export.Verdict, len(documents))
	bySignal := map[signal][]item{}
	for i, d := range documents {
		it := itemOf(i, d)
		bySignal[it.signal] = append(bySignal[it.signal], it)
	}
	var failed error
	sent := 0
	for _, s := range []signal{traces, logs, metrics} {
		items := bySignal[s]
		for len(items) > 0 && failed == nil {
			var settled int
			settled, failed = e.send(ctx, s, items[:e.fitting(items)], verdicts)
			sent, items = sent+settled, items[settled:]
		}
		for _, it := range items {
			verdicts[it.index] = export.Verdict{Outcome: export.Deferred, Reason: fmt.Sprint(failed)}
		}
	}
	if sent == 0 && failed != nil {
		return nil, failed
	}
	return verdicts, nil
}

// fitting gives how many items one request holds; at least one.
func (e *exporter) fitting(items []item) int {
	size := 0
	for i, it := range items {
		if size += it.size; size > e.config.MaxRequestBytes && i > 0 {
			return i
		}
	}
	return len(items)
}
