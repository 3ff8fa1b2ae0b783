package metric

// Metrics of a node's GPUs; the label gpu is NVML's index. Counters count since
// the driver was loaded unless their help says otherwise.
var (
	GPUInfo  = Def{"vigil_gpu_info", "1", Gauge, []string{"gpu", "uuid", "model", "pci", "minor", "driver", "vbios"}, "1 for the GPU's names: its own, its model's, its PCI address as NVML writes it, its device file's number, and the versions of driver and VBIOS."}
	GPUStuck = Def{"vigil_gpu_stuck", "1", Gauge, []string{"gpu"}, "1 while calls to the GPU do not return."}

	GPUUtilization       = Def{"vigil_gpu_utilization_ratio", "ratio", Gauge, []string{"gpu"}, "Share of the last sample period in which a kernel ran, 0 to 1."}
	GPUMemoryUtilization = Def{"vigil_gpu_memory_utilization_ratio", "ratio", Gauge, []string{"gpu"}, "Share of the last sample period in which memory was read or written, 0 to 1."}
	GPUEncoder           = Def{"vigil_gpu_encoder_utilization_ratio", "ratio", Gauge, []string{"gpu"}, "Share of time in which the video encoder worked, 0 to 1."}
	GPUDecoder           = Def{"vigil_gpu_decoder_utilization_ratio", "ratio", Gauge, []string{"gpu"}, "Share of time in which the video decoder worked, 0 to 1."}

	GPUMemoryTotal    = Def{"vigil_gpu_memory_total_bytes", "bytes", Gauge, []string{"gpu"}, "Memory of the GPU."}
	GPUMemoryUsed     = Def{"vigil_gpu_memory_used_bytes", "bytes", Gauge, []string{"gpu"}, "Memory of the GPU that is taken."}
	GPUMemoryReserved = Def{"vigil_gpu_memory_reserved_bytes", "bytes", Gauge, []string{"gpu"}, "Memory of the GPU that driver and firmware keep; not part of what is taken."}
	GPUBAR1Total      = Def{"vigil_gpu_bar1_total_bytes", "bytes", Gauge, []string{"gpu"}, "Size of the window through which others reach the GPU's memory."}
	GPUBAR1Used       = Def{"vigil_gpu_bar1_used_bytes", "bytes", Gauge, []string{"gpu"}, "How much of that window is taken."}
	GPUProcessMemory  = Def{"vigil_gpu_process_memory_bytes", "bytes", Gauge, []string{"gpu", "pid", "run", "rank"}, "Memory of the GPU that a process has; run and rank are empty where no trainer registered it."}

	GPUPower             = Def{"vigil_gpu_power_watts", "watts", Gauge, []string{"gpu"}, "Power that the GPU draws."}
	GPUPowerAverage      = Def{"vigil_gpu_power_average_watts", "watts", Gauge, []string{"gpu"}, "Power that the GPU draws, averaged over a second."}
	GPUPowerInstant      = Def{"vigil_gpu_power_instant_watts", "watts", Gauge, []string{"gpu"}, "Power that the GPU draws at the moment."}
	GPUPowerLimit        = Def{"vigil_gpu_power_limit_watts", "watts", Gauge, []string{"gpu"}, "Power limit in force."}
	GPUPowerLimitDefault = Def{"vigil_gpu_power_limit_default_watts", "watts", Gauge, []string{"gpu"}, "Power limit that the GPU was made with."}
	GPUEnergy            = Def{"vigil_gpu_energy_joules_total", "joules", Counter, []string{"gpu"}, "Energy that the GPU used since its driver was loaded."}

	GPUTemperature         = Def{"vigil_gpu_temperature_celsius", "celsius", Gauge, []string{"gpu"}, "Temperature of the GPU's die."}
	GPUMemoryTemperature   = Def{"vigil_gpu_memory_temperature_celsius", "celsius", Gauge, []string{"gpu"}, "Temperature of the GPU's memory."}
	GPUSlowdownTemperature = Def{"vigil_gpu_slowdown_temperature_celsius", "celsius", Gauge, []string{"gpu"}, "Temperature at which the GPU slows down."}
	GPUTemperatureMargin   = Def{"vigil_gpu_temperature_margin_celsius", "celsius", Gauge, []string{"gpu"}, "How far the GPU is below the temperature at which it slows down."}

	GPUClockSM          = Def{"vigil_gpu_sm_clock_hertz", "hertz", Gauge, []string{"gpu"}, "Clock of the streaming multiprocessors."}
	GPUClockSMMax       = Def{"vigil_gpu_sm_clock_max_hertz", "hertz", Gauge, []string{"gpu"}, "Highest clock of the streaming multiprocessors."}
	GPUClockMemory      = Def{"vigil_gpu_memory_clock_hertz", "hertz", Gauge, []string{"gpu"}, "Clock of the memory."}
	GPUClockMemoryMax   = Def{"vigil_gpu_memory_clock_max_hertz", "hertz", Gauge, []string{"gpu"}, "Highest clock of the memory."}
	GPUThrottled        = Def{"vigil_gpu_throttled", "1", Gauge, []string{"gpu", "reason"}, "1 for each reason for which the GPU runs below its clock: hardware_thermal, software_thermal, power_cap, power_brake, hardware_slowdown, sync_boost."}
	GPUThrottledSeconds = Def{"vigil_gpu_throttled_seconds_total", "seconds", Counter, []string{"gpu", "reason"}, "Time that the GPU ran below its clock: power, thermal."}

	GPUECCCorrected           = Def{"vigil_gpu_ecc_corrected_errors_total", "1", Counter, []string{"gpu"}, "Memory errors since the driver was loaded that ECC corrected."}
	GPUECCUncorrected         = Def{"vigil_gpu_ecc_uncorrected_errors_total", "1", Counter, []string{"gpu"}, "Memory errors since the driver was loaded that ECC could not correct."}
	GPUECCCorrectedLifetime   = Def{"vigil_gpu_ecc_corrected_errors_lifetime_total", "1", Counter, []string{"gpu"}, "Memory errors in the GPU's life that ECC corrected."}
	GPUECCUncorrectedLifetime = Def{"vigil_gpu_ecc_uncorrected_errors_lifetime_total", "1", Counter, []string{"gpu"}, "Memory errors in the GPU's life that ECC could not correct."}
	GPURemappedRows           = Def{"vigil_gpu_remapped_rows_total", "1", Counter, []string{"gpu", "cause"}, "Rows of memory that were remapped in the GPU's life, after errors that were correctable or uncorrectable."}
	GPURemapPending           = Def{"vigil_gpu_row_remap_pending", "1", Gauge, []string{"gpu"}, "1 while a remapping waits for a reset of the GPU."}
	GPURemapFailed            = Def{"vigil_gpu_row_remap_failed", "1", Gauge, []string{"gpu"}, "1 when a row could not be remapped: the GPU must be replaced."}
	GPURetiredPages           = Def{"vigil_gpu_retired_pages_total", "1", Counter, []string{"gpu", "cause"}, "Pages of memory that were retired in the GPU's life, after single_bit or double_bit errors; GPUs from Ampere on remap rows."}
	GPURetiredPagesPending    = Def{"vigil_gpu_retired_pages_pending", "1", Gauge, []string{"gpu"}, "1 while a page's retirement waits for a reset of the GPU."}
	GPUXIDs                   = Def{"vigil_gpu_xids_total", "1", Counter, []string{"gpu", "xid"}, "XID errors that NVML told since the agent started; each is an event too."}
	GPUXIDTime                = Def{"vigil_gpu_last_xid_time_seconds", "seconds", Gauge, []string{"gpu", "xid"}, "When the GPU last had the XID, in seconds since 1970."}
	GPUPCIeGeneration         = Def{"vigil_gpu_pcie_generation", "1", Gauge, []string{"gpu"}, "Generation of the PCIe link now; it falls when the GPU is idle."}
	GPUPCIeGenerationMax      = Def{"vigil_gpu_pcie_generation_max", "1", Gauge, []string{"gpu"}, "Highest generation that GPU and slot can have."}
	GPUPCIeWidth              = Def{"vigil_gpu_pcie_width", "1", Gauge, []string{"gpu"}, "Lanes of the PCIe link now."}
	GPUPCIeWidthMax           = Def{"vigil_gpu_pcie_width_max", "1", Gauge, []string{"gpu"}, "Most lanes that GPU and slot can have."}
	GPUPCIeReplays            = Def{"vigil_gpu_pcie_replays_total", "1", Counter, []string{"gpu"}, "Messages that were sent again on the PCIe link."}
	GPUPCIeSent               = Def{"vigil_gpu_pcie_sent_bytes_per_second", "bytes_per_second", Gauge, []string{"gpu"}, "What the GPU sends over PCIe."}
	GPUPCIeReceived           = Def{"vigil_gpu_pcie_received_bytes_per_second", "bytes_per_second", Gauge, []string{"gpu"}, "What the GPU receives over PCIe."}
	GPUNVLinksUp              = Def{"vigil_gpu_nvlinks_up", "1", Gauge, []string{"gpu"}, "NVLinks that are up."}
	GPUNVLinksDown            = Def{"vigil_gpu_nvlinks_down", "1", Gauge, []string{"gpu"}, "NVLinks that the GPU has and that are not up."}
	GPUNVLinkErrors           = Def{"vigil_gpu_nvlink_errors_total", "1", Counter, []string{"gpu", "error"}, "Errors on all NVLinks: replay, recovery, crc_flit, crc_data."}
	GPUNVLinkSent             = Def{"vigil_gpu_nvlink_sent_bytes_per_second", "bytes_per_second", Gauge, []string{"gpu"}, "What the GPU sends over all NVLinks; Hopper and later."}
	GPUNVLinkReceived         = Def{"vigil_gpu_nvlink_received_bytes_per_second", "bytes_per_second", Gauge, []string{"gpu"}, "What the GPU receives over all NVLinks; Hopper and later."}
	GPUNVLinkSentTotal        = Def{"vigil_gpu_nvlink_sent_bytes_total", "bytes", Counter, []string{"gpu"}, "Data that the GPU sent over all NVLinks."}
	GPUNVLinkReceivedTotal    = Def{"vigil_gpu_nvlink_received_bytes_total", "bytes", Counter, []string{"gpu"}, "Data that the GPU received over all NVLinks."}
	GPUPeers                  = Def{"vigil_gpu_peers", "1", Gauge, []string{"gpu", "access"}, "Other GPUs of the node whose memory the GPU can reach directly: read, write, nvlink, atomics."}
	GPUFabricState            = Def{"vigil_gpu_fabric_state", "1", Gauge, []string{"gpu"}, "How far the GPU has joined the NVSwitch fabric: 1 not started, 2 in progress, 3 completed; absent where there is none."}
	GPUFabricStatus           = Def{"vigil_gpu_fabric_status", "1", Gauge, []string{"gpu"}, "How joining the fabric went, as NVML's return code: 0 is success."}
	GPUGraphicsActive         = Def{"vigil_gpu_graphics_active_ratio", "ratio", Gauge, []string{"gpu"}, "Share of time in which the compute and graphics engine was busy, 0 to 1; Hopper and later, as all that follow."}
	GPUSMActive               = Def{"vigil_gpu_sm_active_ratio", "ratio", Gauge, []string{"gpu"}, "Share of time in which a multiprocessor had work, over all of them, 0 to 1."}
	GPUSMOccupancy            = Def{"vigil_gpu_sm_occupancy_ratio", "ratio", Gauge, []string{"gpu"}, "Warps that were resident as a share of the most possible, 0 to 1."}
	GPUTensorActive           = Def{"vigil_gpu_tensor_active_ratio", "ratio", Gauge, []string{"gpu"}, "Share of time in which the tensor cores worked, 0 to 1."}
	GPUDRAMActive             = Def{"vigil_gpu_dram_active_ratio", "ratio", Gauge, []string{"gpu"}, "Memory bandwidth that was used as a share of the most possible, 0 to 1."}
	GPUFP64Active             = Def{"vigil_gpu_fp64_active_ratio", "ratio", Gauge, []string{"gpu"}, "Share of time in which the double-precision units worked, 0 to 1."}
	GPUFP32Active             = Def{"vigil_gpu_fp32_active_ratio", "ratio", Gauge, []string{"gpu"}, "Share of time in which the single-precision units worked, 0 to 1."}
	GPUFP16Active             = Def{"vigil_gpu_fp16_active_ratio", "ratio", Gauge, []string{"gpu"}, "Share of time in which the half-precision units worked, 0 to 1."}
	GPUMIGMemoryTotal         = Def{"vigil_gpu_mig_memory_total_bytes", "bytes", Gauge, []string{"gpu", "instance", "profile"}, "Memory of a MIG instance."}
	GPUMIGMemoryUsed          = Def{"vigil_gpu_mig_memory_used_bytes", "bytes", Gauge, []string{"gpu", "instance", "profile"}, "Memory of a MIG instance that is taken."}
	GPUPersistence            = Def{"vigil_gpu_persistence_mode", "1", Gauge, []string{"gpu"}, "1 where the driver stays loaded while nobody uses the GPU."}
	GPUComputeMode            = Def{"vigil_gpu_compute_mode", "1", Gauge, []string{"gpu"}, "Who may use the GPU: 0 everybody, 2 nobody, 3 one process at a time."}
	GPUPerformanceState       = Def{"vigil_gpu_performance_state", "1", Gauge, []string{"gpu"}, "Performance state, 0 (highest) to 15."}
	GPUHelperStarts           = Def{"vigil_gpu_helper_starts_total", "1", Counter, nil, "Helper processes that the agent started for NVML."}
	GPUHelpersLeft            = Def{"vigil_gpu_helpers_left", "1", Gauge, nil, "Helper processes that were killed and hang in the kernel."}
)

// GPUs is the part of the dictionary about GPUs. Its order is what the agent
// and its NVML helper, which are one program, name the entries by.
func GPUs() []Def {
	return []Def{
		GPUInfo, GPUStuck,
		GPUUtilization, GPUMemoryUtilization, GPUEncoder, GPUDecoder,
		GPUMemoryTotal, GPUMemoryUsed, GPUMemoryReserved, GPUBAR1Total, GPUBAR1Used, GPUProcessMemory,
		GPUPower, GPUPowerAverage, GPUPowerInstant, GPUPowerLimit, GPUPowerLimitDefault, GPUEnergy,
		GPUTemperature, GPUMemoryTemperature, GPUSlowdownTemperature, GPUTemperatureMargin,
		GPUClockSM, GPUClockSMMax, GPUClockMemory, GPUClockMemoryMax, GPUThrottled, GPUThrottledSeconds,
		GPUECCCorrected, GPUECCUncorrected, GPUECCCorrectedLifetime, GPUECCUncorrectedLifetime,
		GPURemappedRows, GPURemapPending, GPURemapFailed, GPURetiredPages, GPURetiredPagesPending,
		GPUXIDs, GPUXIDTime,
		GPUPCIeGeneration, GPUPCIeGenerationMax, GPUPCIeWidth, GPUPCIeWidthMax, GPUPCIeReplays,
		GPUPCIeSent, GPUPCIeReceived,
		GPUNVLinksUp, GPUNVLinksDown, GPUNVLinkErrors, GPUNVLinkSent, GPUNVLinkReceived,
		GPUNVLinkSentTotal, GPUNVLinkReceivedTotal, GPUPeers, GPUFabricState, GPUFabricStatus,
		GPUGraphicsActive, GPUSMActive, GPUSMOccupancy, GPUTensorActive, GPUDRAMActive,
		GPUFP64Active, GPUFP32Active, GPUFP16Active,
		GPUMIGMemoryTotal, GPUMIGMemoryUsed, GPUPersistence, GPUComputeMode, GPUPerformanceState,
		GPUHelperStarts, GPUHelpersLeft,
	}
}
