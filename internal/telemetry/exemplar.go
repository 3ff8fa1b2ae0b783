package telemetry

import (
	"context"
	"encoding/hex"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// decoded gives what another producer does, with the ids of exemplars' traces as
// bytes: the bridge from Prometheus leaves them as the hexadecimal text that
// labels have, which OTLP does not know.
type decoded struct{ sdkmetric.Producer }

// Produce reads the metrics.
func (d decoded) Produce(ctx context.Context) ([]metricdata.ScopeMetrics, error) {
	all, err := d.Producer.Produce(ctx)
	for _, scope := range all {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Histogram[float64]:
				for i := range data.DataPoints {
					decode(data.DataPoints[i].Exemplars)
				}
			case metricdata.Sum[float64]:
				for i := range data.DataPoints {
					decode(data.DataPoints[i].Exemplars)
				}
			}
		}
	}
	return all, err
}

func decode(exemplars []metricdata.Exemplar[float64]) {
	for i := range exemplars {
		e := &exemplars[i]
		for _, id := range []*[]byte{&e.TraceID, &e.SpanID} {
			if raw, err := hex.DecodeString(string(*id)); err == nil {
				*id = raw
			}
		}
	}
}
