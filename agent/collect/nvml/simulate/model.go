//go:build cgo && linux && !nonvml

package simulate

import (
	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/gpus"
)

// model is what a GPU of a model can do, from NVIDIA's data sheets.
type model struct {
	config       gpus.Config
	idleWatts    float64
	limitWatts   float64
	smMaxMHz     float64
	memoryMHz    uint32
	nvlinks      int
	linkMBs      float64 // of all NVLinks, each way
	pcie         int     // generation
	pcieMBs      float64 // each way
	slowdown     float64 // degrees Celsius
	gpm          bool
	driver, nvml string
}

// modelOf gives the model of a name that package scenario knows.
func modelOf(name string) model {
	const driver, library = "570.124.06", "12.570.124.06"
	switch name {
	case "A100":
		return model{gpus.A100_SXM4_80GB, 58, 400, 1410, 1593, 12, 300e3, 4, 25e3, 92, false, driver, library}
	case "H200":
		return model{gpus.H200_SXM5_141GB, 75, 700, 1980, 3201, 18, 450e3, 5, 50e3, 92, true, driver, library}
	case "B200":
		return model{gpus.B200_SXM5_180GB, 140, 1000, 1965, 3996, 18, 900e3, 5, 50e3, 92, true, driver, library}
	default:
		return model{gpus.H100_SXM5_80GB, 70, 700, 1980, 2619, 18, 450e3, 5, 50e3, 92, true, driver, library}
	}
}

// reserved is the memory that driver and firmware keep.
const reserved = 615 << 20

func (m model) memory() uint64 { return m.config.MemoryMB << 20 }

// reasonBit gives NVML's bit of a reason to run below the clock.
func reasonBit(reason string) uint64 {
	switch reason {
	case "hardware_thermal":
		return nvml.ClocksThrottleReasonHwThermalSlowdown
	case "software_thermal":
		return nvml.ClocksEventReasonSwThermalSlowdown
	case "power_cap":
		return nvml.ClocksEventReasonSwPowerCap
	case "power_brake":
		return nvml.ClocksThrottleReasonHwPowerBrakeSlowdown
	case "hardware_slowdown":
		return nvml.ClocksThrottleReasonHwSlowdown
	default:
		return nvml.ClocksEventReasonSyncBoost
	}
}
