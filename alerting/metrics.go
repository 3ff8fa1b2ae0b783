package alerting

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/vigil-ml/vigil/internal/metric"
)

// Results of a try, as the metric has them.
const (
	resultDelivered = "delivered"
	resultRetried   = "retried"
	resultFailed    = "failed"
	resultDeferred  = "deferred" // put back untried
)

// metrics is what alerting counts about itself.
type metrics struct {
	notifications *prometheus.CounterVec
	seconds       *prometheus.HistogramVec
	failing       *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer, receivers []string) metrics {
	m := metrics{
		notifications: metric.NewCounter(reg, metric.ControlNotifications),
		seconds:       metric.NewLatency(reg, metric.ControlNotifySeconds),
		failing:       metric.NewGauge(reg, metric.ControlReceiverFailing),
	}
	for _, receiver := range receivers {
		// A series that begins at 0 shows its first increase; one that is born
		// with it does not.
		m.failing.WithLabelValues(receiver).Set(0)
		for _, result := range []string{resultDelivered, resultRetried, resultFailed, resultDeferred} {
			m.notifications.WithLabelValues(receiver, result)
		}
	}
	return m
}
