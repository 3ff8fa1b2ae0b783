package metric

// Metrics of a node's GPUs; the label gpu is NVML's index.
var (
	GPUUtilization    = Def{"vigil_gpu_utilization_ratio", "ratio", Gauge, []string{"gpu"}, "Share of the last sample period in which a kernel ran, 0 to 1."}
	GPUMemoryTotal    = Def{"vigil_gpu_memory_total_bytes", "bytes", Gauge, []string{"gpu"}, "Memory of the GPU."}
	GPUMemoryUsed     = Def{"vigil_gpu_memory_used_bytes", "bytes", Gauge, []string{"gpu"}, "Memory of the GPU that is taken."}
	GPUPower          = Def{"vigil_gpu_power_watts", "watts", Gauge, []string{"gpu"}, "Power that the GPU draws."}
	GPUTemperature    = Def{"vigil_gpu_temperature_celsius", "celsius", Gauge, []string{"gpu"}, "Temperature of the GPU's die."}
	GPUClockSM        = Def{"vigil_gpu_sm_clock_hertz", "hertz", Gauge, []string{"gpu"}, "Clock of the streaming multiprocessors."}
	GPUEnergy         = Def{"vigil_gpu_energy_joules_total", "joules", Counter, []string{"gpu"}, "Energy that the GPU used since its driver was loaded."}
	GPUECCUncorrected = Def{"vigil_gpu_ecc_uncorrected_errors_total", "1", Counter, []string{"gpu"}, "Memory errors since the driver was loaded that ECC could not correct."}
)

func gpuDefs() []Def {
	return []Def{
		GPUUtilization, GPUMemoryTotal, GPUMemoryUsed, GPUPower,
		GPUTemperature, GPUClockSM, GPUEnergy, GPUECCUncorrected,
	}
}
