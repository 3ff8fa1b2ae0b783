package incident

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/metric"
)

// scrapeTimeout bounds how long a scrape waits for the store.
const scrapeTimeout = 5 * time.Second

// firingGauge counts the firing incidents in the store when it is scraped, so
// that it is right after a restart and beside other replicas.
type firingGauge struct{ store *store.Store }

// Describe gives the gauge.
func (g *firingGauge) Describe(out chan<- *prometheus.Desc) {
	out <- metric.ControlIncidentsFiring.Desc()
}

// Collect counts.
func (g *firingGauge) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	var count int64
	err := g.store.View(ctx, func(tx *store.Tx) (err error) {
		count, err = tx.CountIncidents(firing)
		return err
	})
	desc := metric.ControlIncidentsFiring.Desc()
	if err != nil {
		out <- prometheus.NewInvalidMetric(desc, err)
		return
	}
	out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(count))
}
