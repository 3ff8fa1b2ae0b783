package export

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/vigil-ml/vigil/internal/metric"
)

// Metrics are those of all exporters.
type Metrics struct {
	documents *prometheus.CounterVec
	retries   *prometheus.CounterVec
	failing   *prometheus.GaugeVec
	dead      *prometheus.GaugeVec
	dropped   *prometheus.CounterVec

	telemetryLost *prometheus.CounterVec
}

// NewMetrics registers the metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	return &Metrics{
		documents: metric.NewCounter(reg, metric.ControlExportDocuments),
		retries:   metric.NewCounter(reg, metric.ControlExportRetries),
		failing:   metric.NewGauge(reg, metric.ControlExportFailing),
		dead:      metric.NewGauge(reg, metric.ControlExportDead),
		dropped:   metric.NewCounter(reg, metric.ControlExportDropped),

		telemetryLost: metric.NewCounter(reg, metric.ControlTelemetryLost),
	}
}

// register has an exporter's series there from the start.
func (m *Metrics) register(name string) {
	m.failing.WithLabelValues(name).Set(0)
	m.retries.WithLabelValues(name)
	m.dropped.WithLabelValues(name)
}

// TelemetryLost counts a batch of what this control plane said of itself that
// could not be kept.
func (m *Metrics) TelemetryLost(string) { m.telemetryLost.WithLabelValues("unkept").Inc() }
