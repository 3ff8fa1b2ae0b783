//go:build cgo && linux && !nonvml

package measure

import (
	"fmt"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/vigil-ml/vigil/internal/metric"
)

// gpmSpan is the least time between the two samples that a figure is made of;
// NVML wants a tenth of a second.
const gpmSpan = 100 * time.Millisecond

const mebibyte = 1 << 20

// gpmMetric is one figure of GPM and what makes the dictionary's unit of it.
type gpmMetric struct {
	id   nvml.GpmMetricId
	unit float64
	def  metric.Def
}

// gpmMetrics is the figures, NVML's in percent and MiB/s. It is never written
// to.
var gpmMetrics = []gpmMetric{
	{nvml.GPM_METRIC_GRAPHICS_UTIL, percent, metric.GPUGraphicsActive},
	{nvml.GPM_METRIC_SM_UTIL, percent, metric.GPUSMActive},
	{nvml.GPM_METRIC_SM_OCCUPANCY, percent, metric.GPUSMOccupancy},
	{nvml.GPM_METRIC_ANY_TENSOR_UTIL, percent, metric.GPUTensorActive},
	{nvml.GPM_METRIC_DRAM_BW_UTIL, percent, metric.GPUDRAMActive},
	{nvml.GPM_METRIC_FP64_UTIL, percent, metric.GPUFP64Active},
	{nvml.GPM_METRIC_FP32_UTIL, percent, metric.GPUFP32Active},
	{nvml.GPM_METRIC_FP16_UTIL, percent, metric.GPUFP16Active},
	{nvml.GPM_METRIC_PCIE_TX_PER_SEC, mebibyte, metric.GPUPCIeSent},
	{nvml.GPM_METRIC_PCIE_RX_PER_SEC, mebibyte, metric.GPUPCIeReceived},
	{nvml.GPM_METRIC_NVLINK_TOTAL_TX_PER_SEC, mebibyte, metric.GPUNVLinkSent},
	{nvml.GPM_METRIC_NVLINK_TOTAL_RX_PER_SEC, mebibyte, metric.GPUNVLinkReceived},
}

// gpm is the performance monitoring of Hopper and later. It takes a sample at
// each collection; figures are those of the time between two.
type gpm struct {
	samples [2]nvml.GpmSample
	taken   time.Time // of samples[0]; zero before
	due     time.Time
	refs    [16]uint32 // as gpmMetrics
	query   *nvml.GpmMetricsGetType
}

// read takes a sample and sends what changed since the last one.
func (g *gpm) read(d *device, now time.Time) error {
	if now.Before(g.due) || (!g.taken.IsZero() && now.Sub(g.taken) < gpmSpan) {
		return nil
	}
	if g.query == nil && !g.start(d) {
		g.due = now.Add(unsupportedAgain)
		d.values.Gone = append(d.values.Gone, g.drop()...)
		return nil
	}
	lib := d.meter.deps.Library
	if ret := d.handle.GpmSampleGet(g.samples[1]); ret != nvml.SUCCESS {
		d.values.Gone = append(d.values.Gone, g.end()...)
		switch {
		case absent(ret): // MIG was switched on, for instance
			g.due = now.Add(unsupportedAgain)
			return nil
		case final(ret):
			d.handle = nil
		}
		return fmt.Errorf("nvmlGpmSampleGet: %w", ret)
	}
	first := g.taken.IsZero()
	g.samples[0], g.samples[1], g.taken = g.samples[1], g.samples[0], now
	if first {
		return nil
	}
	d.meter.enter(d.index, "nvmlGpmMetricsGet")
	g.query.Sample1, g.query.Sample2, g.query.NumMetrics = g.samples[1], g.samples[0], uint32(len(gpmMetrics))
	for i, m := range gpmMetrics {
		g.query.Metrics[i] = nvml.GpmMetric{MetricId: uint32(m.id)}
	}
	if ret := lib.GpmMetricsGet(g.query); ret != nvml.SUCCESS {
		d.values.Gone = append(d.values.Gone, g.end()...)
		return fmt.Errorf("nvmlGpmMetricsGet: %w", ret)
	}
	for i, m := range gpmMetrics {
		if nvml.Return(g.query.Metrics[i].NvmlReturn) != nvml.SUCCESS {
			continue
		}
		if g.refs[i] == 0 {
			g.refs[i] = d.meter.define(m.def, d.index)
		}
		d.put(g.refs[i], g.query.Metrics[i].Value*m.unit)
	}
	return nil
}

// start tells whether the GPU has GPM, and makes the two samples.
func (g *gpm) start(d *device) bool {
	lib := d.meter.deps.Library
	if !d.meter.has("nvmlGpmSampleGet") || !d.meter.has("nvmlGpmQueryDeviceSupport") {
		return false
	}
	if support, ret := d.handle.GpmQueryDeviceSupport(); ret != nvml.SUCCESS || support.IsSupportedDevice == 0 {
		return false
	}
	for i := range g.samples {
		sample, ret := lib.GpmSampleAlloc()
		if ret != nvml.SUCCESS {
			_ = g.end()
			return false
		}
		g.samples[i] = sample
	}
	g.query = &nvml.GpmMetricsGetType{}
	return true
}

// end frees the samples and gives the series that end.
func (g *gpm) end() []uint32 {
	for i, sample := range g.samples {
		if sample != nil {
			_ = sample.Free() // nothing can be done
			g.samples[i] = nil
		}
	}
	g.query, g.taken, g.due = nil, time.Time{}, time.Time{}
	return g.drop()
}

// drop gives the series that end.
func (g *gpm) drop() (gone []uint32) {
	for i, ref := range g.refs {
		if ref != 0 {
			gone = append(gone, ref)
			g.refs[i] = 0
		}
	}
	return gone
}
