//go:build cgo && linux && !nonvml

package simulate

import (
	"encoding/binary"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/vigil-ml/vigil/agent/collect/nvml/scenario"
)

// lifetime is the corrected errors that a GPU had in its life before: more than
// none, so that nobody takes the one counter for the other.
const lifetime = 3

// GetTotalEccErrors counts memory errors: the script's, and corrected ones in
// the GPU's earlier life.
func (d *device) GetTotalEccErrors(kind nvml.MemoryErrorType, counter nvml.EccCounterType) (uint64, nvml.Return) {
	ret := d.enter()
	var n float64
	d.each(func(e scenario.Event, _ bool, share float64) {
		switch {
		case e.ECC == nil:
		case kind == nvml.MEMORY_ERROR_TYPE_CORRECTED:
			n += share * float64(e.ECC.Corrected)
		default:
			n += share * float64(e.ECC.Uncorrected)
		}
	})
	if counter == nvml.AGGREGATE_ECC && kind == nvml.MEMORY_ERROR_TYPE_CORRECTED {
		n += lifetime
	}
	return uint64(n), ret
}

// GetRemappedRows counts remapped rows.
func (d *device) GetRemappedRows() (correctable, uncorrectable int, pending, failed bool, ret nvml.Return) {
	ret = d.enter()
	d.each(func(e scenario.Event, active bool, share float64) {
		if e.Remap == nil {
			return
		}
		correctable += int(share * float64(e.Remap.Correctable))
		uncorrectable += int(share * float64(e.Remap.Uncorrectable))
		pending = pending || (active && e.Remap.Pending)
		failed = failed || (active && e.Remap.Failed)
	})
	return correctable, uncorrectable, pending, failed, ret
}

// GetRetiredPages is not supported: these GPUs remap rows.
func (d *device) GetRetiredPages(nvml.PageRetirementCause) ([]uint64, nvml.Return) {
	return nil, nvml.ERROR_NOT_SUPPORTED
}

// GetRetiredPagesPendingStatus is not supported: these GPUs remap rows.
func (d *device) GetRetiredPagesPendingStatus() (nvml.EnableState, nvml.Return) {
	return nvml.FEATURE_DISABLED, nvml.ERROR_NOT_SUPPORTED
}

// GetNvLinkState tells whether a link is up.
func (d *device) GetNvLinkState(link int) (nvml.EnableState, nvml.Return) {
	if link >= d.model.nvlinks {
		return nvml.FEATURE_DISABLED, nvml.ERROR_INVALID_ARGUMENT
	}
	ret, down := d.enter(), 0
	d.each(func(e scenario.Event, active bool, _ float64) {
		if e.NVLink != nil && active {
			down += e.NVLink.Down
		}
	})
	if link < down {
		return nvml.FEATURE_DISABLED, ret
	}
	return nvml.FEATURE_ENABLED, ret
}

// GetNvLinkErrorCounter counts a link's errors; the script's are replays of the
// first.
func (d *device) GetNvLinkErrorCounter(link int, counter nvml.NvLinkErrorCounter) (uint64, nvml.Return) {
	if link >= d.model.nvlinks {
		return 0, nvml.ERROR_INVALID_ARGUMENT
	}
	ret := d.enter()
	var n float64
	d.each(func(e scenario.Event, _ bool, share float64) {
		if e.NVLink != nil && link == 0 && counter == nvml.NVLINK_ERROR_DL_REPLAY {
			n += share * float64(e.NVLink.Errors)
		}
	})
	return uint64(n), ret
}

// pcie gives what is left of the PCIe link, and its replays.
func (d *device) pcie() (generation, width, replays int, ret nvml.Return) {
	generation, width, ret = d.model.pcie, 16, d.enter()
	d.each(func(e scenario.Event, active bool, share float64) {
		if e.PCIe == nil {
			return
		}
		replays += int(share * float64(e.PCIe.Replays))
		if active && e.PCIe.Width > 0 {
			width = min(width, e.PCIe.Width)
		}
		if active && e.PCIe.Generation > 0 {
			generation = min(generation, e.PCIe.Generation)
		}
	})
	return generation, width, replays, ret
}

// GetCurrPcieLinkGeneration gives the link's generation.
func (d *device) GetCurrPcieLinkGeneration() (int, nvml.Return) {
	generation, _, _, ret := d.pcie()
	return generation, ret
}

// GetMaxPcieLinkGeneration gives the highest generation.
func (d *device) GetMaxPcieLinkGeneration() (int, nvml.Return) { return d.model.pcie, d.enter() }

// GetCurrPcieLinkWidth gives the link's lanes.
func (d *device) GetCurrPcieLinkWidth() (int, nvml.Return) {
	_, width, _, ret := d.pcie()
	return width, ret
}

// GetMaxPcieLinkWidth gives the most lanes.
func (d *device) GetMaxPcieLinkWidth() (int, nvml.Return) { return 16, d.enter() }

// GetPcieReplayCounter counts messages that were sent again.
func (d *device) GetPcieReplayCounter() (int, nvml.Return) {
	_, _, replays, ret := d.pcie()
	return replays, ret
}

// GetPcieThroughput gives KB/s.
func (d *device) GetPcieThroughput(nvml.PcieUtilCounter) (uint32, nvml.Return) {
	s, ret := d.now()
	return uint32(s.load * 0.1 * d.model.pcieMBs * 1e3), ret
}

// GetPersistenceMode says that the driver stays loaded.
func (d *device) GetPersistenceMode() (nvml.EnableState, nvml.Return) {
	return nvml.FEATURE_ENABLED, d.enter()
}

// GetEncoderUtilization gives percent; training encodes nothing.
func (d *device) GetEncoderUtilization() (uint32, uint32, nvml.Return) { return 0, 0, d.enter() }

// GetDecoderUtilization gives percent; training decodes nothing.
func (d *device) GetDecoderUtilization() (uint32, uint32, nvml.Return) { return 0, 0, d.enter() }

// GetFieldValues gives the memory's temperature, power and what went over
// NVLink.
func (d *device) GetFieldValues(fields []nvml.FieldValue) nvml.Return {
	s, ret := d.now()
	for i := range fields {
		f := &fields[i]
		f.ValueType = uint32(nvml.VALUE_TYPE_UNSIGNED_LONG_LONG)
		switch f.FieldId {
		case nvml.FI_DEV_MEMORY_TEMP:
			binary.NativeEndian.PutUint64(f.Value[:], uint64(s.celsius+9.5))
		case nvml.FI_DEV_POWER_AVERAGE, nvml.FI_DEV_POWER_INSTANT:
			binary.NativeEndian.PutUint64(f.Value[:], uint64(s.watts*1e3))
		case nvml.FI_DEV_NVLINK_THROUGHPUT_DATA_TX, nvml.FI_DEV_NVLINK_THROUGHPUT_DATA_RX:
			binary.NativeEndian.PutUint64(f.Value[:], uint64(s.linkBytes/1024))
		default:
			f.NvmlReturn = uint32(nvml.ERROR_NOT_SUPPORTED)
		}
	}
	return ret
}

// GetGpuFabricInfo says that the GPU has joined the NVSwitch fabric.
func (d *device) GetGpuFabricInfo() (nvml.GpuFabricInfo, nvml.Return) {
	return nvml.GpuFabricInfo{State: nvml.GPU_FABRIC_STATE_COMPLETED}, d.enter()
}

// GetP2PStatus says that every GPU reaches every other.
func (d *device) GetP2PStatus(nvml.Device, nvml.GpuP2PCapsIndex) (nvml.GpuP2PStatus, nvml.Return) {
	return nvml.P2P_STATUS_OK, d.enter()
}

// GetComputeMode says that everybody may use the GPU.
func (d *device) GetComputeMode() (nvml.ComputeMode, nvml.Return) {
	return nvml.COMPUTEMODE_DEFAULT, d.enter()
}

// GetPerformanceState gives the highest.
func (d *device) GetPerformanceState() (nvml.Pstates, nvml.Return) {
	return nvml.PSTATE_0, d.enter()
}

// GetComputeRunningProcesses gives the training processes.
func (d *device) GetComputeRunningProcesses() ([]nvml.ProcessInfo, nvml.Return) {
	s, ret := d.now()
	workers, _ := d.lib.workers(d.index)
	var all []nvml.ProcessInfo
	for _, pid := range workers {
		all = append(all, nvml.ProcessInfo{Pid: uint32(pid), UsedGpuMemory: s.memory / uint64(len(workers))})
	}
	return all, ret
}

// GetMigMode says that the GPU is not divided.
func (d *device) GetMigMode() (current, pending int, ret nvml.Return) {
	return nvml.DEVICE_MIG_DISABLE, nvml.DEVICE_MIG_DISABLE, d.enter()
}
