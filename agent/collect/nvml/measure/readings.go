//go:build cgo && linux && !nonvml

package measure

import (
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/vigil-ml/vigil/internal/metric"
)

// reading is one NVML call and what it feeds, in the dictionary's units.
type reading struct {
	name   string // the call, for whoever asks where a GPU hangs
	symbol string // where older drivers lack the function
	// unless is a newer function that tells the same better; where the library
	// has it this reading is left out.
	unless string
	every  time.Duration // 0: at each collection
	series []series
	// unlessGPM leaves it out where GPM tells the same for less.
	unlessGPM bool
	// read fills in one value for each series, [unknown] for what the GPU does
	// not say.
	read func(d nvml.Device, out []float64) nvml.Return
}

// series is an entry of the dictionary and its labels behind gpu.
type series struct {
	def    metric.Def
	labels []string
}

// of makes series without further labels.
func of(defs ...metric.Def) []series {
	all := make([]series, len(defs))
	for i, def := range defs {
		all[i].def = def
	}
	return all
}

// by makes the series of one entry, one for each value of its second label.
func by(def metric.Def, labels ...string) []series {
	all := make([]series, len(labels))
	for i, label := range labels {
		all[i] = series{def, []string{label}}
	}
	return all
}

// one adapts a call that gives one number.
func one[N ~int | ~int32 | ~uint32 | ~uint64](unit float64, call func(nvml.Device) (N, nvml.Return)) func(nvml.Device, []float64) nvml.Return {
	return func(d nvml.Device, out []float64) nvml.Return {
		n, ret := call(d)
		out[0] = float64(n) * unit
		return ret
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

const (
	milli   = 1e-3
	kibi    = 1 << 10
	mega    = 1e6
	percent = 0.01
)

// readings is everything that is read of a GPU besides GPM, processes and MIG
// instances. It is never written to.
var readings = []reading{
	{name: "nvmlDeviceGetUtilizationRates", series: of(metric.GPUUtilization, metric.GPUMemoryUtilization),
		read: func(d nvml.Device, out []float64) nvml.Return {
			u, ret := d.GetUtilizationRates()
			out[0], out[1] = float64(u.Gpu)*percent, float64(u.Memory)*percent
			return ret
		}},
	{name: "nvmlDeviceGetMemoryInfo_v2", symbol: "nvmlDeviceGetMemoryInfo_v2",
		series: of(metric.GPUMemoryTotal, metric.GPUMemoryUsed, metric.GPUMemoryReserved), read: memory},
	{name: "nvmlDeviceGetMemoryInfo", unless: "nvmlDeviceGetMemoryInfo_v2",
		series: of(metric.GPUMemoryTotal, metric.GPUMemoryUsed), read: memoryBefore},
	{name: "nvmlDeviceGetPowerUsage", series: of(metric.GPUPower), read: one(milli, nvml.Device.GetPowerUsage)},
	{name: "nvmlDeviceGetTotalEnergyConsumption", series: of(metric.GPUEnergy), read: one(milli, nvml.Device.GetTotalEnergyConsumption)},
	{name: "nvmlDeviceGetTemperature", series: of(metric.GPUTemperature),
		read: one(1, func(d nvml.Device) (uint32, nvml.Return) { return d.GetTemperature(nvml.TEMPERATURE_GPU) })},
	{name: "nvmlDeviceGetFieldValues",
		series: of(metric.GPUMemoryTemperature, metric.GPUPowerAverage, metric.GPUPowerInstant), read: fields(
			field{nvml.FI_DEV_MEMORY_TEMP, 0, 1}, field{nvml.FI_DEV_POWER_AVERAGE, 0, milli}, field{nvml.FI_DEV_POWER_INSTANT, 0, milli})},
	{name: "nvmlDeviceGetClockInfo", series: of(metric.GPUClockSM, metric.GPUClockMemory),
		read: clocks(nvml.Device.GetClockInfo)},
	{name: "nvmlDeviceGetCurrentClocksEventReasons", symbol: "nvmlDeviceGetCurrentClocksEventReasons",
		series: by(metric.GPUThrottled, reasons...), read: throttled(nvml.Device.GetCurrentClocksEventReasons)},
	{name: "nvmlDeviceGetTotalEccErrors", series: of(metric.GPUECCCorrected, metric.GPUECCUncorrected), read: ecc(nvml.VOLATILE_ECC)},
	{name: "nvmlDeviceGetPcieReplayCounter", series: of(metric.GPUPCIeReplays), read: one(1, nvml.Device.GetPcieReplayCounter)},
	{name: "nvmlDeviceGetMarginTemperature", symbol: "nvmlDeviceGetMarginTemperature", series: of(metric.GPUTemperatureMargin),
		read: one(1, func(d nvml.Device) (int32, nvml.Return) {
			m, ret := d.GetMarginTemperature()
			return m.MarginTemperature, ret
		})},

	{name: "nvmlDeviceGetEncoderUtilization", series: of(metric.GPUEncoder), every: seldom,
		read: one(percent, func(d nvml.Device) (uint32, nvml.Return) {
			u, _, ret := d.GetEncoderUtilization()
			return u, ret
		})},
	{name: "nvmlDeviceGetDecoderUtilization", series: of(metric.GPUDecoder), every: seldom,
		read: one(percent, func(d nvml.Device) (uint32, nvml.Return) {
			u, _, ret := d.GetDecoderUtilization()
			return u, ret
		})},
	{name: "nvmlDeviceGetBAR1MemoryInfo", series: of(metric.GPUBAR1Total, metric.GPUBAR1Used), every: seldom,
		read: func(d nvml.Device, out []float64) nvml.Return {
			m, ret := d.GetBAR1MemoryInfo()
			out[0], out[1] = float64(m.Bar1Total), float64(m.Bar1Used)
			return ret
		}},
	{name: "nvmlDeviceGetEnforcedPowerLimit", series: of(metric.GPUPowerLimit), every: seldom, read: one(milli, nvml.Device.GetEnforcedPowerLimit)},
	{name: "nvmlDeviceGetPowerManagementDefaultLimit", series: of(metric.GPUPowerLimitDefault), every: seldom,
		read: one(milli, nvml.Device.GetPowerManagementDefaultLimit)},
	{name: "nvmlDeviceGetTemperatureThreshold", series: of(metric.GPUSlowdownTemperature), every: seldom,
		read: one(1, func(d nvml.Device) (uint32, nvml.Return) {
			return d.GetTemperatureThreshold(nvml.TEMPERATURE_THRESHOLD_SLOWDOWN)
		})},
	{name: "nvmlDeviceGetMaxClockInfo", series: of(metric.GPUClockSMMax, metric.GPUClockMemoryMax), every: seldom,
		read: clocks(nvml.Device.GetMaxClockInfo)},
	{name: "nvmlDeviceGetViolationStatus", series: by(metric.GPUThrottledSeconds, "power", "thermal"), every: seldom, read: violations},
	{name: "nvmlDeviceGetTotalEccErrors", series: of(metric.GPUECCCorrectedLifetime, metric.GPUECCUncorrectedLifetime), every: seldom,
		read: ecc(nvml.AGGREGATE_ECC)},
	{name: "nvmlDeviceGetRemappedRows", symbol: "nvmlDeviceGetRemappedRows", every: seldom, read: remapped,
		series: append(by(metric.GPURemappedRows, "correctable", "uncorrectable"), of(metric.GPURemapPending, metric.GPURemapFailed)...)},
	{name: "nvmlDeviceGetRetiredPages", series: by(metric.GPURetiredPages, "single_bit", "double_bit"), every: seldom, read: retired},
	{name: "nvmlDeviceGetRetiredPagesPendingStatus", series: of(metric.GPURetiredPagesPending), every: seldom,
		read: one(1, nvml.Device.GetRetiredPagesPendingStatus)},
	{name: "nvmlDeviceGetCurrPcieLinkGeneration", series: of(metric.GPUPCIeGeneration), every: seldom, read: one(1, nvml.Device.GetCurrPcieLinkGeneration)},
	{name: "nvmlDeviceGetMaxPcieLinkGeneration", series: of(metric.GPUPCIeGenerationMax), every: seldom, read: one(1, nvml.Device.GetMaxPcieLinkGeneration)},
	{name: "nvmlDeviceGetCurrPcieLinkWidth", series: of(metric.GPUPCIeWidth), every: seldom, read: one(1, nvml.Device.GetCurrPcieLinkWidth)},
	{name: "nvmlDeviceGetMaxPcieLinkWidth", series: of(metric.GPUPCIeWidthMax), every: seldom, read: one(1, nvml.Device.GetMaxPcieLinkWidth)},
	// It sleeps 20 ms for each direction.
	{name: "nvmlDeviceGetPcieThroughput", series: of(metric.GPUPCIeSent, metric.GPUPCIeReceived), every: seldom, unlessGPM: true, read: pcieRates},
	{name: "nvmlDeviceGetPersistenceMode", series: of(metric.GPUPersistence), every: seldom, read: one(1, nvml.Device.GetPersistenceMode)},
	{name: "nvmlDeviceGetNvLinkState", series: of(metric.GPUNVLinksUp, metric.GPUNVLinksDown), every: seldom, read: linkStates},
	{name: "nvmlDeviceGetNvLinkErrorCounter", series: by(metric.GPUNVLinkErrors, "replay", "recovery", "crc_flit", "crc_data"), every: seldom, read: linkErrors},
	{name: "nvmlDeviceGetFieldValues", series: of(metric.GPUNVLinkSentTotal, metric.GPUNVLinkReceivedTotal), every: seldom, read: fields(
		field{nvml.FI_DEV_NVLINK_THROUGHPUT_DATA_TX, allLinks, kibi}, field{nvml.FI_DEV_NVLINK_THROUGHPUT_DATA_RX, allLinks, kibi})},
	{name: "nvmlDeviceGetGpuFabricInfo", symbol: "nvmlDeviceGetGpuFabricInfo", every: seldom,
		series: of(metric.GPUFabricState, metric.GPUFabricStatus), read: fabric},
	{name: "nvmlDeviceGetComputeMode", series: of(metric.GPUComputeMode), every: seldom, read: one(1, nvml.Device.GetComputeMode)},
	{name: "nvmlDeviceGetPerformanceState", series: of(metric.GPUPerformanceState), every: seldom, read: one(1, nvml.Device.GetPerformanceState)},
}
