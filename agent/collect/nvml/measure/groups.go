//go:build cgo && linux && !nonvml

package measure

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/vigil-ml/vigil/internal/metric"
)

// maxProcesses bounds the processes of a GPU that are told of: those with the
// most memory.
const maxProcesses = 16

// memoryUnknown is what NVML says where the driver hides a process' memory.
const memoryUnknown = ^uint64(0)

func processes(d *device, put func(def metric.Def, value float64, labels ...string)) nvml.Return {
	all, ret := d.handle.GetComputeRunningProcesses()
	if ret != nvml.SUCCESS {
		return ret
	}
	slices.SortFunc(all, func(a, b nvml.ProcessInfo) int { return cmp.Compare(b.UsedGpuMemory, a.UsedGpuMemory) })
	told := 0
	for _, p := range all {
		if p.UsedGpuMemory != memoryUnknown && told < maxProcesses {
			put(metric.GPUProcessMemory, float64(p.UsedGpuMemory), strconv.Itoa(int(p.Pid)))
			told++
		}
	}
	return nvml.SUCCESS
}

// access is a way into another GPU's memory.
type access struct {
	way   nvml.GpuP2PCapsIndex
	label string
}

// accesses is every access. It is never written to.
var accesses = []access{
	{nvml.P2P_CAPS_INDEX_READ, "read"}, {nvml.P2P_CAPS_INDEX_WRITE, "write"},
	{nvml.P2P_CAPS_INDEX_NVLINK, "nvlink"}, {nvml.P2P_CAPS_INDEX_ATOMICS, "atomics"},
}

// peers counts the other GPUs that a GPU reaches. A GPU by itself has no peers
// to count.
func peers(d *device, put func(def metric.Def, value float64, labels ...string)) nvml.Return {
	for _, a := range accesses {
		others, reached := 0, 0
		for _, other := range d.meter.devices {
			if other == d || other.handle == nil {
				continue
			}
			others++
			if status, ret := d.handle.GetP2PStatus(other.handle, a.way); ret == nvml.SUCCESS && status == nvml.P2P_STATUS_OK {
				reached++
			} else if final(ret) {
				return ret
			}
		}
		if others > 0 {
			put(metric.GPUPeers, float64(reached), a.label)
		}
	}
	return nvml.SUCCESS
}

// instances reads the MIG instances.
func instances(d *device, put func(def metric.Def, value float64, labels ...string)) nvml.Return {
	mode, _, ret := d.handle.GetMigMode()
	if ret != nvml.SUCCESS || mode != nvml.DEVICE_MIG_ENABLE {
		return ret
	}
	most, ret := d.handle.GetMaxMigDeviceCount()
	if ret != nvml.SUCCESS {
		return ret
	}
	for i := range most {
		instance, ret := d.handle.GetMigDeviceHandleByIndex(i)
		if ret == nvml.ERROR_NOT_FOUND || absent(ret) {
			continue
		}
		if ret != nvml.SUCCESS {
			return ret
		}
		id, ret := instance.GetGpuInstanceId()
		if ret != nvml.SUCCESS {
			return ret
		}
		memory, ret := instance.GetMemoryInfo()
		if ret != nvml.SUCCESS {
			return ret
		}
		profile := ""
		if a, ret := instance.GetAttributes(); ret == nvml.SUCCESS {
			profile = profileName(a)
		}
		put(metric.GPUMIGMemoryTotal, float64(memory.Total), strconv.Itoa(id), profile)
		put(metric.GPUMIGMemoryUsed, float64(memory.Used), strconv.Itoa(id), profile)
	}
	return nvml.SUCCESS
}

// profileName is how NVIDIA writes a profile: slices of compute and gigabytes,
// for instance 3g.40gb.
func profileName(a nvml.DeviceAttributes) string {
	gigabytes := (a.MemorySizeMB + 1023) / 1024
	return strconv.Itoa(int(a.GpuInstanceSliceCount)) + "g." + strconv.Itoa(int(gigabytes)) + "gb"
}
