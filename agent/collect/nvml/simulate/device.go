//go:build cgo && linux && !nonvml

package simulate

import (
	"fmt"
	"sync"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/vigil-ml/vigil/agent/collect/nvml/scenario"
)

// device is one simulated GPU. Calls that it does not answer itself go to the
// mock below.
type device struct {
	nvml.Device
	lib   *Library
	index int
	model model
	uuid  string

	mu    sync.Mutex
	state physics
}

// enter is at the beginning of every call: it hangs, or says that the GPU is
// lost, when the script wants it.
func (d *device) enter() nvml.Return {
	if len(d.lib.script.Events) == 0 {
		return nvml.SUCCESS
	}
	d.lib.hang(func(e scenario.Event) bool { return e.Hits(d.index) })
	lost := nvml.SUCCESS
	d.each(func(e scenario.Event, active bool, _ float64) {
		if e.Lost && active {
			lost = nvml.ERROR_GPU_IS_LOST
		}
	})
	return lost
}

// each calls do with every event of the script that hits the GPU, whether it
// is going on, and how much of it has come.
func (d *device) each(do func(e scenario.Event, active bool, share float64)) {
	at := d.lib.now()
	for _, e := range d.lib.script.Events {
		if e.Hits(d.index) {
			do(e, d.lib.script.Active(e, at), d.lib.script.Share(e, at))
		}
	}
}

// now gives the state at the time of the call.
func (d *device) now() (physics, nvml.Return) {
	if ret := d.enter(); ret != nvml.SUCCESS {
		return physics{}, ret
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	at := d.lib.now()
	if d.state.at != 0 && at-d.state.at < stateAge {
		return d.state, nvml.SUCCESS
	}
	load := pattern(d.index, at)
	workers, any := d.lib.workers(d.index)
	if any && len(workers) == 0 {
		load = 0
	}
	var throttle uint64
	d.each(func(e scenario.Event, active bool, _ float64) {
		switch {
		case !active:
		case e.Idle:
			load = 0
		case e.Throttle != "":
			throttle |= reasonBit(e.Throttle)
		}
	})
	d.state.memory = uint64(1 << 20)
	if load > 0 {
		d.state.memory = uint64(float64(d.model.memory()) * (0.81 + 0.002*float64(d.index)))
	}
	d.state.advance(d.model, at, load, throttle)
	return d.state, nvml.SUCCESS
}

// GetUUID gives the GPU's own name.
func (d *device) GetUUID() (string, nvml.Return) { return d.uuid, d.enter() }

// GetIndex gives the GPU's index.
func (d *device) GetIndex() (int, nvml.Return) { return d.index, d.enter() }

// GetVbiosVersion gives the VBIOS' version.
func (d *device) GetVbiosVersion() (string, nvml.Return) { return "96.00.00.00.01", nvml.SUCCESS }

// GetPciInfo gives the PCI address.
func (d *device) GetPciInfo() (nvml.PciInfo, nvml.Return) {
	info := nvml.PciInfo{Bus: uint32(0x18 + 0x10*d.index), PciDeviceId: d.model.config.PciDeviceId}
	for i, c := range fmt.Sprintf("%08X:%02X:%02X.0", info.Domain, info.Bus&0xff, info.Device) {
		info.BusId[i] = int8(c)
	}
	return info, d.enter()
}

// GetUtilizationRates gives percentages.
func (d *device) GetUtilizationRates() (nvml.Utilization, nvml.Return) {
	s, ret := d.now()
	return nvml.Utilization{Gpu: uint32(100*s.load + 0.5), Memory: uint32(46 * s.load)}, ret
}

// GetMemoryInfo gives total and used memory, what is reserved among it.
func (d *device) GetMemoryInfo() (nvml.Memory, nvml.Return) {
	s, ret := d.now()
	used := s.memory + reserved
	return nvml.Memory{Total: d.model.memory(), Used: used, Free: d.model.memory() - used}, ret
}

// GetMemoryInfo_v2 gives reserved memory by itself.
func (d *device) GetMemoryInfo_v2() (nvml.Memory_v2, nvml.Return) {
	s, ret := d.now()
	return nvml.Memory_v2{Total: d.model.memory(), Reserved: reserved, Used: s.memory, Free: d.model.memory() - s.memory - reserved}, ret
}

// GetBAR1MemoryInfo gives the window into the GPU's memory.
func (d *device) GetBAR1MemoryInfo() (nvml.BAR1Memory, nvml.Return) {
	total := uint64(128 << 30)
	return nvml.BAR1Memory{Bar1Total: total, Bar1Used: 3 << 20, Bar1Free: total - 3<<20}, d.enter()
}

// GetPowerUsage gives milliwatts.
func (d *device) GetPowerUsage() (uint32, nvml.Return) {
	s, ret := d.now()
	return uint32(s.watts * 1e3), ret
}

// GetTotalEnergyConsumption gives millijoules.
func (d *device) GetTotalEnergyConsumption() (uint64, nvml.Return) {
	s, ret := d.now()
	return uint64(s.joules * 1e3), ret
}

// GetEnforcedPowerLimit gives milliwatts.
func (d *device) GetEnforcedPowerLimit() (uint32, nvml.Return) {
	return uint32(d.model.limitWatts * 1e3), d.enter()
}

// GetPowerManagementDefaultLimit gives milliwatts.
func (d *device) GetPowerManagementDefaultLimit() (uint32, nvml.Return) {
	return uint32(d.model.limitWatts * 1e3), d.enter()
}

// GetTemperature gives the die's temperature.
func (d *device) GetTemperature(nvml.TemperatureSensors) (uint32, nvml.Return) {
	s, ret := d.now()
	return uint32(s.celsius + 0.5), ret
}

// GetTemperatureThreshold gives the temperature of slowing down.
func (d *device) GetTemperatureThreshold(kind nvml.TemperatureThresholds) (uint32, nvml.Return) {
	if kind != nvml.TEMPERATURE_THRESHOLD_SLOWDOWN {
		return 0, nvml.ERROR_NOT_SUPPORTED
	}
	return uint32(d.model.slowdown), d.enter()
}

// GetMarginTemperature gives the distance to that temperature.
func (d *device) GetMarginTemperature() (nvml.MarginTemperature, nvml.Return) {
	s, ret := d.now()
	return nvml.MarginTemperature{MarginTemperature: int32(d.model.slowdown - s.celsius + 0.5)}, ret
}

// GetClockInfo gives megahertz.
func (d *device) GetClockInfo(kind nvml.ClockType) (uint32, nvml.Return) {
	s, ret := d.now()
	if kind == nvml.CLOCK_MEM {
		return d.model.memoryMHz, ret
	}
	return uint32(s.smMHz), ret
}

// GetMaxClockInfo gives megahertz.
func (d *device) GetMaxClockInfo(kind nvml.ClockType) (uint32, nvml.Return) {
	if kind == nvml.CLOCK_MEM {
		return d.model.memoryMHz, d.enter()
	}
	return uint32(d.model.smMaxMHz), d.enter()
}

// GetCurrentClocksEventReasons gives why the clock is low.
func (d *device) GetCurrentClocksEventReasons() (uint64, nvml.Return) {
	s, ret := d.now()
	if s.load == 0 {
		return s.throttle | nvml.ClocksEventReasonGpuIdle, ret
	}
	return s.throttle, ret
}

// GetViolationStatus gives nanoseconds below the clock.
func (d *device) GetViolationStatus(policy nvml.PerfPolicyType) (nvml.ViolationTime, nvml.Return) {
	s, ret := d.now()
	spent := map[nvml.PerfPolicyType]time.Duration{nvml.PERF_POLICY_POWER: s.powerTime, nvml.PERF_POLICY_THERMAL: s.thermalTime}
	return nvml.ViolationTime{ViolationTime: uint64(spent[policy])}, ret
}
