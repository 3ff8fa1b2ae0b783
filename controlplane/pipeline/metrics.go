package pipeline

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/internal/metric"
)

// metrics counts only what is committed.
type metrics struct {
	events   *prometheus.CounterVec
	lag      *prometheus.HistogramVec
	findings *prometheus.CounterVec
	detect   *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer) metrics {
	return metrics{
		events:   metric.NewCounter(reg, metric.ControlEvents),
		lag:      metric.NewLatency(reg, metric.ControlPipelineLag),
		findings: metric.NewCounter(reg, metric.ControlFindings),
		detect:   metric.NewLatency(reg, metric.ControlDetectSeconds),
	}
}

// committed counts a batch. The clocks of two machines may differ, so that
// the time from an event to its finding can seem negative; it counts as 0.
func (m metrics) committed(b *batch, now time.Time) {
	m.events.WithLabelValues().Add(float64(b.events))
	for _, frame := range b.frames {
		if !frame.Received.IsZero() {
			metric.ObserveTraced(m.lag.WithLabelValues(), max(0, now.Sub(frame.Received)).Seconds(), traceOf(frame))
		}
	}
	for i, f := range b.findings {
		severity := strings.ToLower(strings.TrimPrefix(f.GetSeverity().String(), "SEVERITY_"))
		mode := "on"
		if f.GetShadow() {
			mode = "shadow"
		}
		m.findings.WithLabelValues(f.GetKind(), severity, mode).Inc()
		metric.ObserveTraced(m.detect.WithLabelValues(f.GetKind()),
			max(0, f.GetCreated().AsTime().Sub(f.GetEventTime().AsTime())).Seconds(), b.traces[i])
	}
}

// traceOf gives the trace context of the first event of a frame that has one.
func traceOf(frame bus.Delivery) string {
	for _, event := range frame.Batch.GetEvents() {
		if event.GetTraceparent() != "" {
			return event.GetTraceparent()
		}
	}
	return ""
}
