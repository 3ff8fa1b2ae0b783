//go:build cgo && linux && !nonvml

package simulate

import (
	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
)

// mebibytes makes MiB of the MB in which links are sold.
const mebibytes = 1e6 / (1 << 20)

// gpmSample is a sample of GPM: the state when it was taken.
type gpmSample struct {
	mock.GpmSample // what is not called panics
	device         *device
	state          physics
}

// Free frees the sample.
func (s *gpmSample) Free() nvml.Return { return nvml.SUCCESS }

// GpmSampleAlloc makes a sample.
func (l *Library) GpmSampleAlloc() (nvml.GpmSample, nvml.Return) { return &gpmSample{}, nvml.SUCCESS }

// GpmQueryDeviceSupport tells whether the model has GPM.
func (d *device) GpmQueryDeviceSupport() (nvml.GpmSupport, nvml.Return) {
	if d.model.gpm {
		return nvml.GpmSupport{IsSupportedDevice: 1}, d.enter()
	}
	return nvml.GpmSupport{}, d.enter()
}

// GpmSampleGet takes a sample.
func (d *device) GpmSampleGet(sample nvml.GpmSample) nvml.Return {
	s, ok := sample.(*gpmSample)
	if !ok {
		return nvml.ERROR_INVALID_ARGUMENT
	}
	state, ret := d.now()
	s.device, s.state = d, state
	return ret
}

// GpmMetricsGet gives figures of the time between two samples.
func (l *Library) GpmMetricsGet(query *nvml.GpmMetricsGetType) nvml.Return {
	first, ok := query.Sample1.(*gpmSample)
	last, okToo := query.Sample2.(*gpmSample)
	if !ok || !okToo || first.device == nil || first.device != last.device {
		return nvml.ERROR_INVALID_ARGUMENT
	}
	load := (first.state.load + last.state.load) / 2
	for i := range query.Metrics[:query.NumMetrics] {
		m := &query.Metrics[i]
		m.Value, m.NvmlReturn = 0, uint32(nvml.SUCCESS)
		share, known := gpmShare(nvml.GpmMetricId(m.MetricId), first.device.model)
		if !known {
			m.NvmlReturn = uint32(nvml.ERROR_NOT_SUPPORTED)
		}
		m.Value = share * load
	}
	return nvml.SUCCESS
}

// gpmShare is what a figure is at full load, in percent or MiB/s: those of
// training a transformer in half precision.
func gpmShare(id nvml.GpmMetricId, m model) (float64, bool) {
	switch id {
	case nvml.GPM_METRIC_GRAPHICS_UTIL:
		return 99, true
	case nvml.GPM_METRIC_SM_UTIL:
		return 88, true
	case nvml.GPM_METRIC_SM_OCCUPANCY:
		return 31, true
	case nvml.GPM_METRIC_ANY_TENSOR_UTIL:
		return 47, true
	case nvml.GPM_METRIC_DRAM_BW_UTIL:
		return 42, true
	case nvml.GPM_METRIC_FP64_UTIL:
		return 0, true
	case nvml.GPM_METRIC_FP32_UTIL:
		return 9, true
	case nvml.GPM_METRIC_FP16_UTIL:
		return 3, true
	case nvml.GPM_METRIC_PCIE_TX_PER_SEC, nvml.GPM_METRIC_PCIE_RX_PER_SEC:
		return 0.1 * m.pcieMBs * mebibytes, true
	case nvml.GPM_METRIC_NVLINK_TOTAL_TX_PER_SEC, nvml.GPM_METRIC_NVLINK_TOTAL_RX_PER_SEC:
		return linkShare * m.linkMBs * mebibytes, true
	default:
		return 0, false
	}
}
