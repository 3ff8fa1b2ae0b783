//go:build cgo && linux && !nonvml

package nvml

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/testkit"
)

// gpu is a GPU that has everything. Functions of a mock that are not set panic.
func gpu() *mock.Device {
	return &mock.Device{
		GetUtilizationRatesFunc: func() (nvml.Utilization, nvml.Return) { return nvml.Utilization{Gpu: 40}, nvml.SUCCESS },
		GetMemoryInfoFunc: func() (nvml.Memory, nvml.Return) {
			return nvml.Memory{Total: 80 << 30, Used: 0}, nvml.SUCCESS
		},
		GetPowerUsageFunc: func() (uint32, nvml.Return) { return 250500, nvml.SUCCESS },
		GetTemperatureFunc: func(sensor nvml.TemperatureSensors) (uint32, nvml.Return) {
			return 60 + uint32(sensor), nvml.SUCCESS
		},
		GetClockInfoFunc: func(clock nvml.ClockType) (uint32, nvml.Return) {
			return 1980 + uint32(clock-nvml.CLOCK_SM), nvml.SUCCESS
		},
		GetTotalEnergyConsumptionFunc: func() (uint64, nvml.Return) { return 1500, nvml.SUCCESS },
		GetTotalEccErrorsFunc: func(kind nvml.MemoryErrorType, counter nvml.EccCounterType) (uint64, nvml.Return) {
			if kind != nvml.MEMORY_ERROR_TYPE_UNCORRECTED || counter != nvml.VOLATILE_ECC {
				return 99, nvml.SUCCESS
			}
			return 0, nvml.SUCCESS
		},
	}
}

func driver(gpus ...*mock.Device) *mock.Interface {
	return &mock.Interface{
		InitFunc:           func() nvml.Return { return nvml.SUCCESS },
		ShutdownFunc:       func() nvml.Return { return nvml.SUCCESS },
		DeviceGetCountFunc: func() (int, nvml.Return) { return len(gpus), nvml.SUCCESS },
		DeviceGetHandleByIndexFunc: func(i int) (nvml.Device, nvml.Return) {
			if gpus[i] == nil {
				return nil, nvml.ERROR_GPU_IS_LOST
			}
			return gpus[i], nvml.SUCCESS
		},
	}
}

// run collects once and gives what was emitted, as "name gpu" to value.
func run(t *testing.T, c collect.Collector) (map[string]float64, collect.Status, error) {
	t.Helper()
	got := map[string]float64{}
	status, err := c.Collect(t.Context(), func(s metric.Sample) {
		got[strings.TrimPrefix(s.Def.Name, "vigil_gpu_")+" "+strings.Join(s.Labels, " ")] = s.Value
	})
	return got, status, err
}

func everything(index string) map[string]float64 {
	return map[string]float64{
		"utilization_ratio " + index: 0.4, "memory_total_bytes " + index: 80 << 30, "memory_used_bytes " + index: 0,
		"power_watts " + index: 250.5, "temperature_celsius " + index: 60, "sm_clock_hertz " + index: 1.98e9,
		"energy_joules_total " + index: 1.5, "ecc_uncorrected_errors_total " + index: 0,
	}
}

func TestEveryQuantityInItsUnit(t *testing.T) {
	lib := driver(gpu())
	c := &collector{lib: lib, log: testkit.Logger(t)}
	for range 2 {
		got, status, err := run(t, c)
		if status != collect.Ok || err != nil {
			t.Errorf("Collect = %s, %v", status, err)
		}
		if diff := cmp.Diff(everything("0"), got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
	if err := errors.Join(c.Close(), c.Close()); err != nil || len(lib.InitCalls()) != 1 || len(lib.ShutdownCalls()) != 1 {
		t.Errorf("Close = %v; opened %d times, closed %d times", err, len(lib.InitCalls()), len(lib.ShutdownCalls()))
	}
}

func TestUnsupportedQuantityIsLeftOutAlone(t *testing.T) {
	old := gpu()
	old.GetTotalEccErrorsFunc = func(nvml.MemoryErrorType, nvml.EccCounterType) (uint64, nvml.Return) {
		return 0, nvml.ERROR_NOT_SUPPORTED
	}
	old.GetTotalEnergyConsumptionFunc = func() (uint64, nvml.Return) { return 0, nvml.ERROR_FUNCTION_NOT_FOUND }
	got, status, err := run(t, &collector{lib: driver(old)})
	if status != collect.Ok || err != nil {
		t.Errorf("Collect = %s, %v", status, err)
	}
	want := everything("0")
	delete(want, "ecc_uncorrected_errors_total 0")
	delete(want, "energy_joules_total 0")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestFailingGPUTakesNoOtherWithIt(t *testing.T) {
	odd := gpu()
	odd.GetPowerUsageFunc = func() (uint32, nvml.Return) { return 0, nvml.ERROR_UNKNOWN }
	lost := gpu()
	lost.GetUtilizationRatesFunc = func() (nvml.Utilization, nvml.Return) {
		return nvml.Utilization{}, nvml.ERROR_GPU_IS_LOST
	}
	got, status, err := run(t, &collector{lib: driver(nil, odd, lost, gpu())})
	if status != collect.Unknown || err == nil {
		t.Fatalf("Collect = %s, %v", status, err)
	}
	for _, says := range []string{"open GPU 0", "measure GPU 1: read vigil_gpu_power_watts", "measure GPU 2"} {
		if !strings.Contains(err.Error(), says) {
			t.Errorf("error %q does not say %q", err, says)
		}
	}
	want := everything("3")
	for key, value := range everything("1") {
		if key != "power_watts 1" {
			want[key] = value
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestNothingToMeasure(t *testing.T) {
	for name, tc := range map[string]struct {
		lib  *mock.Interface
		want collect.Status
		says string
	}{
		"no library": {&mock.Interface{InitFunc: func() nvml.Return { return nvml.ERROR_LIBRARY_NOT_FOUND }}, collect.Unsupported, ""},
		"no driver":  {&mock.Interface{InitFunc: func() nvml.Return { return nvml.ERROR_DRIVER_NOT_LOADED }}, collect.Unsupported, ""},
		"no GPU":     {driver(), collect.Unsupported, ""},
		"mismatch":   {&mock.Interface{InitFunc: func() nvml.Return { return nvml.ERROR_LIB_RM_VERSION_MISMATCH }}, collect.Unknown, "open NVML"},
	} {
		t.Run(name, func(t *testing.T) {
			got, status, err := run(t, &collector{lib: tc.lib})
			if status != tc.want || len(got) != 0 || (tc.says == "") != (err == nil) {
				t.Errorf("Collect = %s, %v, samples %v", status, err, got)
			}
			if err != nil && !strings.Contains(err.Error(), tc.says) {
				t.Errorf("error %q does not say %q", err, tc.says)
			}
		})
	}
}

func TestDriverThatGoesAwayIsOpenedAgain(t *testing.T) {
	lib := driver(gpu())
	count, gone := lib.DeviceGetCountFunc, true
	lib.DeviceGetCountFunc = func() (int, nvml.Return) {
		if gone {
			return 0, nvml.ERROR_UNINITIALIZED
		}
		return count()
	}
	c := &collector{lib: lib}
	if _, status, err := run(t, c); status != collect.Unknown || err == nil {
		t.Errorf("Collect = %s, %v", status, err)
	}
	gone = false
	if _, status, err := run(t, c); status != collect.Ok || err != nil {
		t.Errorf("Collect = %s, %v", status, err)
	}
	if n := len(lib.InitCalls()); n != 2 {
		t.Errorf("opened %d times, want 2", n)
	}
}

func TestCollectEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	status, err := (&collector{lib: driver(gpu())}).Collect(ctx, func(metric.Sample) { t.Error("a sample") })
	if status != collect.Unknown || !errors.Is(err, context.Canceled) {
		t.Errorf("Collect = %s, %v", status, err)
	}
}
