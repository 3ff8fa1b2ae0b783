package compat

import (
	"strconv"

	"github.com/vigil-ml/vigil/agent/page"
	"github.com/vigil-ml/vigil/internal/metric"
)

// gpuLabels are dcgm-exporter's labels.
func gpuLabels() []string {
	return []string{"gpu", "UUID", "pci_bus_id", "device", "modelName", "Hostname", "DCGM_FI_DRIVER_VERSION"}
}

// ofGPU gives their values; a sample of a GPU whose names are not known is left
// out, as its series would be another one later.
func ofGPU() []source {
	named := func(name string) source {
		return func(s metric.Sample, k *known) (string, bool) {
			info, ok := k.gpus[label(s, "gpu")]
			return label(info, name), ok
		}
	}
	device := func(s metric.Sample, k *known) (string, bool) {
		info, ok := k.gpus[label(s, "gpu")]
		return "nvidia" + label(info, "minor"), ok
	}
	host := func(_ metric.Sample, k *known) (string, bool) { return k.host, true }
	return []source{own("gpu"), named("uuid"), named("pci"), device, named("model"), host, named("driver")}
}

const (
	percent = 100
	mega    = 1e-6
	kibi    = 1.0 / (1 << 10)
	mebi    = 1.0 / (1 << 20)
	milli   = 1e3
	micro   = 1e6
)

// gauge and counter are rules for a GPU's samples.
func gauge(from metric.Def, factor float64, name, help string) rule {
	return rule{from: from, factor: factor, to: page.Family{Name: "DCGM_FI_" + name, Type: metric.Gauge, Help: help, Labels: gpuLabels()}, values: ofGPU()}
}

func counter(from metric.Def, factor float64, name, help string) rule {
	r := gauge(from, factor, name, help)
	r.to.Type = metric.Counter
	return r
}

// in makes a rule one for samples with a label.
func (r rule) in(name, value string) rule {
	r.where = map[string]string{name: value}
	return r
}

// needs makes a rule's series one that needs so many samples.
func (r rule) needs(samples int) rule {
	r.least = samples
	return r
}

// ofInstance makes a rule one for MIG instances.
func (r rule) ofInstance() rule {
	r.to.Labels = append(r.to.Labels, "GPU_I_PROFILE", "GPU_I_ID")
	r.values = append(r.values, own("profile"), own("instance"))
	return r
}

func dcgmRules() []rule {
	const free = "Framebuffer memory free (in MiB)."
	rules := []rule{
		gauge(metric.GPUClockSM, mega, "DEV_SM_CLOCK", "SM clock frequency (in MHz)."),
		gauge(metric.GPUClockMemory, mega, "DEV_MEM_CLOCK", "Memory clock frequency (in MHz)."),
		gauge(metric.GPUClockSMMax, mega, "DEV_MAX_SM_CLOCK", "Highest SM clock frequency (in MHz)."),
		gauge(metric.GPUClockMemoryMax, mega, "DEV_MAX_MEM_CLOCK", "Highest memory clock frequency (in MHz)."),
		gauge(metric.GPUMemoryTemperature, 1, "DEV_MEMORY_TEMP", "Memory temperature (in C)."),
		gauge(metric.GPUTemperature, 1, "DEV_GPU_TEMP", "GPU temperature (in C)."),
		gauge(metric.GPUSlowdownTemperature, 1, "DEV_SLOWDOWN_TEMP", "Temperature at which the GPU slows down (in C)."),
		gauge(metric.GPUPower, 1, "DEV_POWER_USAGE", "Power draw (in W)."),
		gauge(metric.GPUPowerInstant, 1, "DEV_POWER_USAGE_INSTANT", "Power draw at the moment (in W)."),
		gauge(metric.GPUPowerLimit, 1, "DEV_ENFORCED_POWER_LIMIT", "Power limit in force (in W)."),
		gauge(metric.GPUPowerLimitDefault, 1, "DEV_POWER_MGMT_LIMIT_DEF", "Default power limit (in W)."),
		counter(metric.GPUEnergy, milli, "DEV_TOTAL_ENERGY_CONSUMPTION", "Total energy consumption since boot (in mJ)."),
		counter(metric.GPUPCIeReplays, 1, "DEV_PCIE_REPLAY_COUNTER", "Total number of PCIe retries."),
		gauge(metric.GPUPCIeGeneration, 1, "DEV_PCIE_LINK_GEN", "PCIe link generation."),
		gauge(metric.GPUPCIeGenerationMax, 1, "DEV_PCIE_MAX_LINK_GEN", "Highest PCIe link generation."),
		gauge(metric.GPUPCIeWidth, 1, "DEV_PCIE_LINK_WIDTH", "PCIe link width."),
		gauge(metric.GPUPCIeWidthMax, 1, "DEV_PCIE_MAX_LINK_WIDTH", "Highest PCIe link width."),
		gauge(metric.GPUUtilization, percent, "DEV_GPU_UTIL", "GPU utilization (in %)."),
		gauge(metric.GPUMemoryUtilization, percent, "DEV_MEM_COPY_UTIL", "Memory utilization (in %)."),
		gauge(metric.GPUEncoder, percent, "DEV_ENC_UTIL", "Encoder utilization (in %)."),
		gauge(metric.GPUDecoder, percent, "DEV_DEC_UTIL", "Decoder utilization (in %)."),
		gauge(metric.GPUMemoryTotal, mebi, "DEV_FB_TOTAL", "Framebuffer memory total (in MiB)."),
		gauge(metric.GPUMemoryUsed, mebi, "DEV_FB_USED", "Framebuffer memory used (in MiB)."),
		gauge(metric.GPUMemoryReserved, mebi, "DEV_FB_RESERVED", "Framebuffer memory reserved (in MiB)."),
		gauge(metric.GPUMemoryTotal, mebi, "DEV_FB_FREE", free).needs(2),
		gauge(metric.GPUMemoryUsed, -mebi, "DEV_FB_FREE", free).needs(2),
		gauge(metric.GPUMemoryReserved, -mebi, "DEV_FB_FREE", free).needs(2),
		gauge(metric.GPUMIGMemoryTotal, mebi, "DEV_FB_TOTAL", "Framebuffer memory total (in MiB).").ofInstance(),
		gauge(metric.GPUMIGMemoryUsed, mebi, "DEV_FB_USED", "Framebuffer memory used (in MiB).").ofInstance(),
		gauge(metric.GPUBAR1Total, mebi, "DEV_BAR1_TOTAL", "BAR1 memory total (in MiB)."),
		gauge(metric.GPUBAR1Used, mebi, "DEV_BAR1_USED", "BAR1 memory used (in MiB)."),
		gauge(metric.GPUPerformanceState, 1, "DEV_PSTATE", "Performance state."),
		gauge(metric.GPUPersistence, 1, "DEV_PERSISTENCE_MODE", "Persistence mode."),
		gauge(metric.GPUComputeMode, 1, "DEV_COMPUTE_MODE", "Compute mode."),
		gauge(metric.GPUFabricState, 1, "DEV_FABRIC_MANAGER_STATUS", "State of joining the NVSwitch fabric."),
	}
	for _, part := range [][]rule{dcgmHealth(), dcgmProfiling()} {
		rules = append(rules, part...)
	}
	return rules
}

func dcgmHealth() []rule {
	const links = "Data sent and received over all NVLinks (in KiB)."
	rules := []rule{
		counter(metric.GPUThrottledSeconds, micro, "DEV_POWER_VIOLATION", "Throttling duration due to power constraints (in us).").in("reason", "power"),
		counter(metric.GPUThrottledSeconds, micro, "DEV_THERMAL_VIOLATION", "Throttling duration due to thermal constraints (in us).").in("reason", "thermal"),
		counter(metric.GPUECCCorrected, 1, "DEV_ECC_SBE_VOL_TOTAL", "Total number of single-bit volatile ECC errors."),
		counter(metric.GPUECCUncorrected, 1, "DEV_ECC_DBE_VOL_TOTAL", "Total number of double-bit volatile ECC errors."),
		counter(metric.GPUECCCorrectedLifetime, 1, "DEV_ECC_SBE_AGG_TOTAL", "Total number of single-bit persistent ECC errors."),
		counter(metric.GPUECCUncorrectedLifetime, 1, "DEV_ECC_DBE_AGG_TOTAL", "Total number of double-bit persistent ECC errors."),
		counter(metric.GPURetiredPages, 1, "DEV_RETIRED_SBE", "Total number of retired pages due to single-bit errors.").in("cause", "single_bit"),
		counter(metric.GPURetiredPages, 1, "DEV_RETIRED_DBE", "Total number of retired pages due to double-bit errors.").in("cause", "double_bit"),
		counter(metric.GPURetiredPagesPending, 1, "DEV_RETIRED_PENDING", "Total number of pages pending retirement."),
		counter(metric.GPURemappedRows, 1, "DEV_UNCORRECTABLE_REMAPPED_ROWS", "Number of remapped rows for uncorrectable errors").in("cause", "uncorrectable"),
		counter(metric.GPURemappedRows, 1, "DEV_CORRECTABLE_REMAPPED_ROWS", "Number of remapped rows for correctable errors").in("cause", "correctable"),
		gauge(metric.GPURemapFailed, 1, "DEV_ROW_REMAP_FAILURE", "Whether remapping of rows has failed"),
		gauge(metric.GPURemapPending, 1, "DEV_ROW_REMAP_PENDING", "Whether remapping of rows waits for a reset"),
		counter(metric.GPUNVLinkErrors, 1, "DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL", "Total number of NVLink flow-control CRC errors.").in("error", "crc_flit"),
		counter(metric.GPUNVLinkErrors, 1, "DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL", "Total number of NVLink data CRC errors.").in("error", "crc_data"),
		counter(metric.GPUNVLinkErrors, 1, "DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL", "Total number of NVLink retries.").in("error", "replay"),
		counter(metric.GPUNVLinkErrors, 1, "DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL", "Total number of NVLink recovery errors.").in("error", "recovery"),
		// NVML counts data in KiB, each way by itself.
		counter(metric.GPUNVLinkSentTotal, kibi, "DEV_NVLINK_BANDWIDTH_TOTAL", links).needs(2),
		counter(metric.GPUNVLinkReceivedTotal, kibi, "DEV_NVLINK_BANDWIDTH_TOTAL", links).needs(2),
	}
	// The bits are NVML's, which DCGM hands on.
	for reason, bit := range map[string]float64{
		"power_cap": 0x4, "hardware_slowdown": 0x8, "sync_boost": 0x10, "software_thermal": 0x20, "hardware_thermal": 0x40, "power_brake": 0x80,
	} {
		rules = append(rules, gauge(metric.GPUThrottled, bit, "DEV_CLOCK_THROTTLE_REASONS", "Current clock throttle reasons (bitmask).").in("reason", reason))
	}
	return rules
}

func dcgmProfiling() []rule {
	return []rule{
		gauge(metric.GPUGraphicsActive, 1, "PROF_GR_ENGINE_ACTIVE", "Ratio of time the graphics engine is active."),
		gauge(metric.GPUSMActive, 1, "PROF_SM_ACTIVE", "Ratio of cycles an SM has at least 1 warp assigned."),
		gauge(metric.GPUSMOccupancy, 1, "PROF_SM_OCCUPANCY", "Ratio of warps resident on an SM."),
		gauge(metric.GPUTensorActive, 1, "PROF_PIPE_TENSOR_ACTIVE", "Ratio of cycles the tensor cores are active."),
		gauge(metric.GPUDRAMActive, 1, "PROF_DRAM_ACTIVE", "Ratio of cycles the device memory interface is active."),
		gauge(metric.GPUFP64Active, 1, "PROF_PIPE_FP64_ACTIVE", "Ratio of cycles the fp64 pipes are active."),
		gauge(metric.GPUFP32Active, 1, "PROF_PIPE_FP32_ACTIVE", "Ratio of cycles the fp32 pipes are active."),
		gauge(metric.GPUFP16Active, 1, "PROF_PIPE_FP16_ACTIVE", "Ratio of cycles the fp16 pipes are active."),
		gauge(metric.GPUPCIeSent, 1, "PROF_PCIE_TX_BYTES", "Rate of data transmitted over the PCIe bus (in bytes per second)."),
		gauge(metric.GPUPCIeReceived, 1, "PROF_PCIE_RX_BYTES", "Rate of data received over the PCIe bus (in bytes per second)."),
		gauge(metric.GPUNVLinkSent, 1, "PROF_NVLINK_TX_BYTES", "Rate of data transmitted over NVLink (in bytes per second)."),
		gauge(metric.GPUNVLinkReceived, 1, "PROF_NVLINK_RX_BYTES", "Rate of data received over NVLink (in bytes per second)."),
	}
}

// dcgmExtra gives the last XID of each GPU, 0 before the first.
func dcgmExtra(samples []metric.Sample, k *known, p *page.Page) {
	last, at := map[string]float64{}, map[string]float64{}
	for _, s := range samples {
		gpu := label(s, "gpu")
		if s.Def.Name != metric.GPUXIDTime.Name || s.Value < at[gpu] {
			continue
		}
		if number, err := strconv.Atoi(label(s, "xid")); err == nil {
			last[gpu], at[gpu] = float64(number), s.Value
		}
	}
	family := page.Family{Name: "DCGM_FI_DEV_XID_ERRORS", Type: metric.Gauge, Help: "Value of the last XID error encountered.", Labels: gpuLabels()}
	for gpu, info := range k.gpus {
		values := make([]string, 0, len(gpuLabels()))
		for _, from := range ofGPU() {
			value, _ := from(info, k)
			values = append(values, value)
		}
		p.Add(family, values, last[gpu])
	}
}
