//go:build cgo && linux && !nonvml

package measure

import (
	"encoding/binary"
	"math"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// unknown is the value of what a GPU does not say.
var unknown = math.NaN()

// allLinks asks for the sum over all NVLinks.
const allLinks = math.MaxUint32

// memory gives total, used and reserved memory. What the driver reserves is not
// among what is used, as nvidia-smi has it too.
func memory(d nvml.Device, out []float64) nvml.Return {
	m, ret := d.GetMemoryInfo_v2()
	out[0], out[1], out[2] = float64(m.Total), float64(m.Used), float64(m.Reserved)
	return ret
}

// memoryBefore is memory for drivers before 510, which count what is reserved
// among what is used.
func memoryBefore(d nvml.Device, out []float64) nvml.Return {
	m, ret := d.GetMemoryInfo()
	out[0], out[1] = float64(m.Total), float64(m.Used)
	return ret
}

// field is a value that has no call of its own.
type field struct {
	id    uint32
	scope uint32
	unit  float64
}

// fields reads field values. Each may be one that the GPU does not have; with
// none of them the answer is that of the first.
func fields(wanted ...field) func(nvml.Device, []float64) nvml.Return {
	return func(d nvml.Device, out []float64) nvml.Return {
		values := make([]nvml.FieldValue, len(wanted))
		for i, f := range wanted {
			values[i].FieldId, values[i].ScopeId = f.id, f.scope
		}
		if ret := d.GetFieldValues(values); ret != nvml.SUCCESS {
			return ret
		}
		answer := nvml.Return(values[0].NvmlReturn)
		for i, f := range wanted {
			out[i] = unknown
			if nvml.Return(values[i].NvmlReturn) == nvml.SUCCESS {
				out[i], answer = number(values[i])*f.unit, nvml.SUCCESS
			}
		}
		return answer
	}
}

// fabric reads how the GPU stands with the NVSwitch fabric.
func fabric(d nvml.Device, out []float64) nvml.Return {
	info, ret := d.GetGpuFabricInfo()
	if ret == nvml.SUCCESS && info.State == nvml.GPU_FABRIC_STATE_NOT_SUPPORTED {
		return nvml.ERROR_NOT_SUPPORTED
	}
	out[0], out[1] = float64(info.State), float64(info.Status)
	return ret
}

// number is a field's value, which has one of several types.
func number(f nvml.FieldValue) float64 {
	bits := binary.NativeEndian.Uint64(f.Value[:])
	switch nvml.ValueType(f.ValueType) {
	case nvml.VALUE_TYPE_DOUBLE:
		return math.Float64frombits(bits)
	case nvml.VALUE_TYPE_UNSIGNED_INT:
		return float64(binary.NativeEndian.Uint32(f.Value[:]))
	case nvml.VALUE_TYPE_SIGNED_INT:
		return float64(int32(binary.NativeEndian.Uint32(f.Value[:])))
	case nvml.VALUE_TYPE_UNSIGNED_SHORT:
		return float64(binary.NativeEndian.Uint16(f.Value[:]))
	case nvml.VALUE_TYPE_SIGNED_LONG_LONG:
		return float64(int64(bits))
	default:
		return float64(bits)
	}
}

// clocks reads the clocks of multiprocessors and memory.
func clocks(call func(nvml.Device, nvml.ClockType) (uint32, nvml.Return)) func(nvml.Device, []float64) nvml.Return {
	return func(d nvml.Device, out []float64) nvml.Return {
		for i, clock := range []nvml.ClockType{nvml.CLOCK_SM, nvml.CLOCK_MEM} {
			n, ret := call(d, clock)
			if ret != nvml.SUCCESS {
				return ret
			}
			out[i] = float64(n) * mega
		}
		return nvml.SUCCESS
	}
}

// reasons are the labels of the bits below. Neither is written to.
var reasons = []string{"hardware_thermal", "software_thermal", "power_cap", "power_brake", "hardware_slowdown", "sync_boost"}

var reasonBits = []uint64{
	nvml.ClocksThrottleReasonHwThermalSlowdown, nvml.ClocksEventReasonSwThermalSlowdown, nvml.ClocksEventReasonSwPowerCap,
	nvml.ClocksThrottleReasonHwPowerBrakeSlowdown, nvml.ClocksThrottleReasonHwSlowdown, nvml.ClocksEventReasonSyncBoost,
}

func throttled(call func(nvml.Device) (uint64, nvml.Return)) func(nvml.Device, []float64) nvml.Return {
	return func(d nvml.Device, out []float64) nvml.Return {
		mask, ret := call(d)
		for i, bit := range reasonBits {
			out[i] = truth(mask&bit != 0)
		}
		return ret
	}
}

// violations reads times in nanoseconds.
func violations(d nvml.Device, out []float64) nvml.Return {
	for i, policy := range []nvml.PerfPolicyType{nvml.PERF_POLICY_POWER, nvml.PERF_POLICY_THERMAL} {
		v, ret := d.GetViolationStatus(policy)
		if ret != nvml.SUCCESS {
			return ret
		}
		out[i] = float64(v.ViolationTime) / 1e9
	}
	return nvml.SUCCESS
}

func ecc(since nvml.EccCounterType) func(nvml.Device, []float64) nvml.Return {
	return func(d nvml.Device, out []float64) nvml.Return {
		for i, kind := range []nvml.MemoryErrorType{nvml.MEMORY_ERROR_TYPE_CORRECTED, nvml.MEMORY_ERROR_TYPE_UNCORRECTED} {
			n, ret := d.GetTotalEccErrors(kind, since)
			if ret != nvml.SUCCESS {
				return ret
			}
			out[i] = float64(n)
		}
		return nvml.SUCCESS
	}
}

func remapped(d nvml.Device, out []float64) nvml.Return {
	correctable, uncorrectable, pending, failed, ret := d.GetRemappedRows()
	out[0], out[1], out[2], out[3] = float64(correctable), float64(uncorrectable), truth(pending), truth(failed)
	return ret
}

func retired(d nvml.Device, out []float64) nvml.Return {
	for i, cause := range []nvml.PageRetirementCause{
		nvml.PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS, nvml.PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR,
	} {
		pages, ret := d.GetRetiredPages(cause)
		if ret != nvml.SUCCESS {
			return ret
		}
		out[i] = float64(len(pages))
	}
	return nvml.SUCCESS
}

// linkStates counts NVLinks. A GPU says of links that it does not have that
// they are not supported or no argument.
func linkStates(d nvml.Device, out []float64) nvml.Return {
	found := false
	out[0], out[1] = 0, 0
	for link := range nvml.NVLINK_MAX_LINKS {
		up, ret := d.GetNvLinkState(link)
		if absent(ret) {
			break
		}
		if ret != nvml.SUCCESS {
			return ret
		}
		found = true
		if up == nvml.FEATURE_ENABLED {
			out[0]++
		} else {
			out[1]++
		}
	}
	if !found {
		return nvml.ERROR_NOT_SUPPORTED
	}
	return nvml.SUCCESS
}

// linkErrors adds up the errors of all NVLinks.
func linkErrors(d nvml.Device, out []float64) nvml.Return {
	clear(out)
	for link := range nvml.NVLINK_MAX_LINKS {
		for i, counter := range []nvml.NvLinkErrorCounter{
			nvml.NVLINK_ERROR_DL_REPLAY, nvml.NVLINK_ERROR_DL_RECOVERY, nvml.NVLINK_ERROR_DL_CRC_FLIT, nvml.NVLINK_ERROR_DL_CRC_DATA,
		} {
			n, ret := d.GetNvLinkErrorCounter(link, counter)
			if absent(ret) && link > 0 {
				return nvml.SUCCESS
			}
			if ret != nvml.SUCCESS {
				return ret
			}
			out[i] += float64(n)
		}
	}
	return nvml.SUCCESS
}

// pcieRates reads rates in KB/s.
func pcieRates(d nvml.Device, out []float64) nvml.Return {
	for i, direction := range []nvml.PcieUtilCounter{nvml.PCIE_UTIL_TX_BYTES, nvml.PCIE_UTIL_RX_BYTES} {
		n, ret := d.GetPcieThroughput(direction)
		if ret != nvml.SUCCESS {
			return ret
		}
		out[i] = float64(n) * 1e3
	}
	return nvml.SUCCESS
}
