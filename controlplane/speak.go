package controlplane

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/vigil-ml/vigil/controlplane/export"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/telemetry"
	"github.com/vigil-ml/vigil/internal/version"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

const (
	// flushTime is how long the last spans, log records and metrics may take.
	flushTime = 3 * time.Second

	program = "vigil-controlplane"
	// traceExporter is the name of the exporter that Config.Trace stands for.
	traceExporter = "trace"
)

// exportTraces makes an exporter of what Trace says: what waits for a receiver
// then outlives it, and this process.
func (c *Config) exportTraces() error {
	if c.Trace.OTLPEndpoint == "" {
		return nil
	}
	settings, err := conf.RawOf(map[string]any{"endpoint": c.Trace.OTLPEndpoint, "plaintext": c.Trace.Plaintext})
	if err != nil {
		return err
	}
	c.Exports = append(slices.Clone(c.Exports), ExportConfig{
		Name: traceExporter, Kind: "otlp", Streams: []string{export.StreamTraces}, Settings: settings,
	})
	return nil
}

// speak makes the log, the tracer and what reads the metrics. What an exporter
// takes of them goes through the store.
func (c *controlPlane) speak(ctx context.Context, w io.Writer) error {
	c.exports = export.NewMetrics(c.metrics)
	if err := c.makeExporters(telemetry.Logger(w, c.config.Log)); err != nil {
		return err
	}
	wanted := c.wanted()
	relay, err := telemetry.NewRelay(c.exports.TelemetryLost)
	if err != nil {
		return err
	}
	who := telemetry.Who{Program: program, Version: version.String(), Instance: c.self.ID}
	provided, err := telemetry.Provide(ctx, who, wanted, relay)
	if err != nil {
		return fmt.Errorf("provide telemetry: %w", err)
	}
	c.log, c.tracer, c.said = telemetry.Logger(w, c.config.Log, provided.Logs), provided.Tracer, relay
	c.flush = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), flushTime)
		defer cancel()
		if c.store == nil {
			cancel() // nobody takes it
		}
		if err := provided.Close(ctx); err != nil && c.store != nil {
			c.log.Warn("the last of this control plane's own telemetry was lost", "error", err)
		}
	})
	return nil
}

// wanted is what any exporter takes of what the control plane says of itself.
func (c *controlPlane) wanted() telemetry.Wanted {
	wanted := telemetry.Wanted{MetricsEvery: c.config.MetricsInterval}
	for i, e := range c.config.Exports {
		streams := e.limits(c.made[i].Streams()).Streams
		wanted.Traces = wanted.Traces || streams[export.StreamTraces]
		wanted.Logs = wanted.Logs || streams[export.StreamLogs]
		if streams[export.StreamMetrics] {
			wanted.Metrics = c.metrics
		}
	}
	return wanted
}

// keepTelemetry has the store keep what is said until every exporter has it.
func (c *controlPlane) keepTelemetry() {
	c.said.Attach(func(ctx context.Context, said *commonv1.Telemetry) error {
		id, err := uuid.NewV7()
		if err != nil {
			return fmt.Errorf("make id: %w", err)
		}
		return c.store.Update(ctx, func(tx *store.Tx) error { return tx.RecordTelemetry(id.String(), said) })
	})
}
