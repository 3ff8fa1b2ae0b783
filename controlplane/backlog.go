package controlplane

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/controlplane/export"
	"github.com/vigil-ml/vigil/controlplane/pipeline"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/metric"
)

// backlog shows as metrics what waits, and how long for, when somebody asks. What
// cannot be asked for in time is left out.
type backlog struct {
	store     *store.Store
	bus       *bus.Bus
	exporters export.Set
	pipelines []*pipeline.Pipeline
	clock     func() time.Time
}

// Describe says which metrics there may be.
func (b *backlog) Describe(to chan<- *prometheus.Desc) {
	for _, def := range []metric.Def{
		metric.ControlOutboxWaiting, metric.ControlOutboxOldest, metric.ControlCommandsOpen, metric.ControlBusFrames, metric.ControlBusBytes,
		metric.ControlPipelineBehind, metric.ControlExportLag,
	} {
		to <- def.Desc()
	}
}

// Collect gives them as they are now.
func (b *backlog) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), askedFor)
	defer cancel()
	show := func(def metric.Def, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(def.Desc(), prometheus.GaugeValue, value, labels...)
	}
	for _, p := range b.pipelines {
		show(metric.ControlPipelineBehind, p.Lag().Seconds(), p.Name())
	}
	for _, r := range b.exporters {
		show(metric.ControlExportLag, r.Lag().Seconds(), r.Name())
	}
	if frames, sizeBytes, err := b.bus.Size(ctx); err == nil {
		show(metric.ControlBusFrames, float64(frames))
		show(metric.ControlBusBytes, float64(sizeBytes))
	}
	var waits store.Backlog
	err := b.store.View(ctx, func(tx *store.Tx) (err error) {
		waits, err = tx.Backlog()
		return err
	})
	if err != nil {
		return
	}
	show(metric.ControlCommandsOpen, float64(waits.Commands))
	for receiver, n := range waits.Waiting {
		show(metric.ControlOutboxWaiting, float64(n), receiver, "waiting")
		show(metric.ControlOutboxOldest, b.clock().Sub(waits.Oldest[receiver]).Seconds(), receiver)
	}
	for receiver, n := range waits.Dead {
		show(metric.ControlOutboxWaiting, float64(n), receiver, "dead")
	}
}
