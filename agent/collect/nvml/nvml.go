//go:build cgo && linux && !nonvml

package nvml

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/internal/metric"
)

// collector calls NVML. The library is open from the first collection that
// finds a driver until Close or until the driver goes away.
type collector struct {
	lib  nvml.Interface
	log  *slog.Logger
	open bool
}

func newCollector(deps collect.Deps) collect.Collector {
	return &collector{lib: nvml.New(), log: deps.Log}
}

// Collect measures every GPU. It says Unsupported where there is no driver and
// no GPU. A quantity that a GPU does not have is left out; a GPU that fails
// takes no other with it.
func (c *collector) Collect(ctx context.Context, emit func(metric.Sample)) (collect.Status, error) {
	if status, err := c.init(); status != collect.Ok {
		return status, err
	}
	count, ret := c.lib.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return c.lost(fmt.Errorf("count GPUs: %w", ret))
	}
	if count == 0 {
		return collect.Unsupported, nil
	}
	var wrong error
	for i := range count {
		if err := ctx.Err(); err != nil {
			return collect.Unknown, errors.Join(wrong, err)
		}
		device, ret := c.lib.DeviceGetHandleByIndex(i)
		if ret != nvml.SUCCESS {
			wrong = errors.Join(wrong, fmt.Errorf("open GPU %d: %w", i, ret))
			continue
		}
		if err := measure(device, strconv.Itoa(i), emit); err != nil {
			wrong = errors.Join(wrong, fmt.Errorf("measure GPU %d: %w", i, err))
		}
	}
	if wrong != nil {
		return c.lost(wrong)
	}
	return collect.Ok, nil
}

// init loads the library where that has not been done.
func (c *collector) init() (collect.Status, error) {
	if c.open {
		return collect.Ok, nil
	}
	switch ret := c.lib.Init(); ret {
	case nvml.SUCCESS:
		c.open = true
		return collect.Ok, nil
	case nvml.ERROR_LIBRARY_NOT_FOUND, nvml.ERROR_DRIVER_NOT_LOADED, nvml.ERROR_NOT_FOUND:
		return collect.Unsupported, nil
	default:
		return collect.Unknown, fmt.Errorf("open NVML: %w", ret)
	}
}

// lost gives an error on; where it says that the driver went away, the library
// is closed, so that the next collection opens it anew.
func (c *collector) lost(err error) (collect.Status, error) {
	for _, gone := range []nvml.Return{nvml.ERROR_UNINITIALIZED, nvml.ERROR_DRIVER_NOT_LOADED, nvml.ERROR_LIB_RM_VERSION_MISMATCH} {
		if errors.Is(err, gone) {
			err = errors.Join(err, c.Close())
			break
		}
	}
	return collect.Unknown, err
}

// Close closes the library where it is open.
func (c *collector) Close() error {
	if !c.open {
		return nil
	}
	c.open = false
	if ret := c.lib.Shutdown(); ret != nvml.SUCCESS && ret != nvml.ERROR_UNINITIALIZED {
		return fmt.Errorf("close NVML: %w", ret)
	}
	return nil
}

// reading is one quantity of a GPU in the dictionary's unit.
type reading struct {
	def  metric.Def
	read func(nvml.Device) (float64, nvml.Return)
}

func readings() []reading {
	return []reading{
		{metric.GPUUtilization, func(d nvml.Device) (float64, nvml.Return) {
			u, ret := d.GetUtilizationRates()
			return float64(u.Gpu) / 100, ret
		}},
		{metric.GPUMemoryTotal, func(d nvml.Device) (float64, nvml.Return) {
			m, ret := d.GetMemoryInfo()
			return float64(m.Total), ret
		}},
		{metric.GPUMemoryUsed, func(d nvml.Device) (float64, nvml.Return) {
			m, ret := d.GetMemoryInfo()
			return float64(m.Used), ret
		}},
		{metric.GPUPower, func(d nvml.Device) (float64, nvml.Return) {
			milliwatts, ret := d.GetPowerUsage()
			return float64(milliwatts) / 1e3, ret
		}},
		{metric.GPUTemperature, func(d nvml.Device) (float64, nvml.Return) {
			celsius, ret := d.GetTemperature(nvml.TEMPERATURE_GPU)
			return float64(celsius), ret
		}},
		{metric.GPUClockSM, func(d nvml.Device) (float64, nvml.Return) {
			megahertz, ret := d.GetClockInfo(nvml.CLOCK_SM)
			return float64(megahertz) * 1e6, ret
		}},
		{metric.GPUEnergy, func(d nvml.Device) (float64, nvml.Return) {
			millijoules, ret := d.GetTotalEnergyConsumption()
			return float64(millijoules) / 1e3, ret
		}},
		{metric.GPUECCUncorrected, func(d nvml.Device) (float64, nvml.Return) {
			n, ret := d.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.VOLATILE_ECC)
			return float64(n), ret
		}},
	}
}

// measure emits every quantity that the GPU has.
func measure(device nvml.Device, index string, emit func(metric.Sample)) error {
	var wrong error
	for _, r := range readings() {
		switch value, ret := r.read(device); ret {
		case nvml.SUCCESS:
			emit(metric.Sample{Def: r.def, Labels: []string{index}, Value: value})
		case nvml.ERROR_NOT_SUPPORTED, nvml.ERROR_FUNCTION_NOT_FOUND, nvml.ERROR_NO_DATA, nvml.ERROR_NO_PERMISSION:
			// The GPU, or the driver, does not have it or does not give it.
		case nvml.ERROR_GPU_IS_LOST, nvml.ERROR_UNINITIALIZED:
			return ret // nothing else will come
		default:
			wrong = errors.Join(wrong, fmt.Errorf("read %s: %w", r.def.Name, ret))
		}
	}
	return wrong
}
