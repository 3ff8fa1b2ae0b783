package report

import (
	"slices"
	"strconv"

	"github.com/vigil-ml/vigil/agent/collect/fabric"
	"github.com/vigil-ml/vigil/internal/metric"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// rule puts a sample where it belongs in a report.
type rule func(d *draft, s metric.Sample)

// rules is which samples are in the report, by the metric's name.
func rules() map[string]rule {
	all := map[string]rule{}
	for _, part := range []map[string]rule{hostRules(), gpuRules(), gpuHealthRules(), portRules(), processRules()} {
		for name, rule := range part {
			all[name] = rule
		}
	}
	return all
}

func hostRules() map[string]rule {
	return map[string]rule{
		metric.HostCPUSeconds.Name: func(d *draft, s metric.Sample) {
			d.cpus = true
			d.all += s.Value
			if mode := s.Labels[0]; mode != "idle" && mode != "iowait" {
				d.busy += s.Value
			}
		},
		metric.HostMemoryTotal.Name:     func(d *draft, s metric.Sample) { d.report.MemoryTotalBytes = whole(s.Value) },
		metric.HostMemoryAvailable.Name: func(d *draft, s metric.Sample) { d.report.MemoryAvailableBytes = whole(s.Value) },
		metric.HostClockOffset.Name:     func(d *draft, s metric.Sample) { d.report.ClockOffsetSeconds = &s.Value },
		metric.HostStall.Name: func(d *draft, s metric.Sample) {
			if !slices.Equal(s.Labels, []string{"memory", "some"}) {
				return
			}
			if ratio, ok := d.shares.of("memory stall", s.Value, seconds(s)); ok {
				ratio = min(ratio, 1) // the two clocks are not read at one moment
				d.report.MemoryStallRatio = &ratio
			}
		},
		metric.HostDiskTotal.Name:      func(d *draft, s metric.Sample) { d.mount(s.Labels[0]).SizeBytes = int64(s.Value) },
		metric.HostDiskAvailable.Name:  func(d *draft, s metric.Sample) { d.mount(s.Labels[0]).AvailableBytes = int64(s.Value) },
		metric.HostDiskInodes.Name:     func(d *draft, s metric.Sample) { d.mount(s.Labels[0]).Inodes = int64(s.Value) },
		metric.HostDiskInodesFree.Name: func(d *draft, s metric.Sample) { d.mount(s.Labels[0]).InodesFree = int64(s.Value) },
	}
}

// ofGPU is a rule for samples whose first label is a GPU's index.
func ofGPU(put func(g *commonv1.GpuReport, s metric.Sample)) rule {
	return func(d *draft, s metric.Sample) {
		if g := d.gpu(s.Labels[0]); g != nil {
			put(g, s)
		}
	}
}

func gpuRules() map[string]rule {
	return map[string]rule{
		"vigil_gpu_info":               ofGPU(func(g *commonv1.GpuReport, s metric.Sample) { g.Uuid = label(s, "uuid") }),
		metric.GPUUtilization.Name:     ofGPU(func(g *commonv1.GpuReport, s metric.Sample) { g.UtilizationRatio = &s.Value }),
		metric.GPUMemoryTotal.Name:     ofGPU(func(g *commonv1.GpuReport, s metric.Sample) { g.MemoryTotalBytes = whole(s.Value) }),
		metric.GPUMemoryUsed.Name:      ofGPU(func(g *commonv1.GpuReport, s metric.Sample) { g.MemoryUsedBytes = whole(s.Value) }),
		metric.GPUPower.Name:           ofGPU(func(g *commonv1.GpuReport, s metric.Sample) { g.PowerWatts = &s.Value }),
		metric.GPUTemperature.Name:     ofGPU(func(g *commonv1.GpuReport, s metric.Sample) { g.TemperatureCelsius = &s.Value }),
		metric.GPUClockSM.Name:         ofGPU(func(g *commonv1.GpuReport, s metric.Sample) { g.SmClockHertz = &s.Value }),
		"vigil_gpu_sm_clock_max_hertz": ofGPU(func(g *commonv1.GpuReport, s metric.Sample) { g.SmClockMaxHertz = &s.Value }),
		"vigil_gpu_process_memory_bytes": ofGPU(func(g *commonv1.GpuReport, s metric.Sample) {
			pid, err := strconv.ParseInt(label(s, "pid"), 10, 64)
			if err == nil && !slices.Contains(g.Pids, pid) {
				g.Pids = append(g.Pids, pid)
			}
		}),
		"vigil_gpu_throttled": ofGPU(func(g *commonv1.GpuReport, s metric.Sample) {
			if reason := throttle(label(s, "reason")); reason != 0 && s.Value == 1 {
				g.Throttle = append(g.Throttle, reason)
			}
		}),
	}
}

func throttle(reason string) commonv1.ThrottleReason {
	switch reason {
	case "hardware_thermal":
		return commonv1.ThrottleReason_THROTTLE_REASON_HARDWARE_THERMAL
	case "software_thermal":
		return commonv1.ThrottleReason_THROTTLE_REASON_SOFTWARE_THERMAL
	case "power_cap":
		return commonv1.ThrottleReason_THROTTLE_REASON_POWER_CAP
	case "power_brake":
		return commonv1.ThrottleReason_THROTTLE_REASON_POWER_BRAKE
	case "hardware_slowdown":
		return commonv1.ThrottleReason_THROTTLE_REASON_HARDWARE_SLOWDOWN
	case "sync_boost":
		return commonv1.ThrottleReason_THROTTLE_REASON_SYNC_BOOST
	}
	return 0
}

func gpuHealthRules() map[string]rule {
	return map[string]rule{
		"vigil_gpu_ecc_corrected_errors_total": ofGPU(func(g *commonv1.GpuReport, s metric.Sample) { g.EccCorrected = whole(s.Value) }),
		metric.GPUECCUncorrected.Name:          ofGPU(func(g *commonv1.GpuReport, s metric.Sample) { g.EccUncorrected = whole(s.Value) }),
		"vigil_gpu_remapped_rows_total":        ofGPU(func(g *commonv1.GpuReport, s metric.Sample) { add(&g.RemappedRows, s.Value) }),
		"vigil_gpu_row_remap_pending":          ofGPU(func(g *commonv1.GpuReport, s metric.Sample) { g.RemapPending = truth(s.Value) }),
		"vigil_gpu_row_remap_failed":           ofGPU(func(g *commonv1.GpuReport, s metric.Sample) { g.RemapFailed = truth(s.Value) }),
		"vigil_gpu_nvlink_errors_total":        ofGPU(func(g *commonv1.GpuReport, s metric.Sample) { add(&g.NvlinkErrors, s.Value) }),
		"vigil_gpu_nvlinks_down":               ofGPU(func(g *commonv1.GpuReport, s metric.Sample) { g.NvlinksDown = whole(s.Value) }),
		"vigil_gpu_pcie_replays_total":         ofGPU(func(g *commonv1.GpuReport, s metric.Sample) { g.PcieReplays = whole(s.Value) }),
	}
}

func portRules() map[string]rule {
	of := func(put func(p *commonv1.PortReport, s metric.Sample)) rule {
		return func(d *draft, s metric.Sample) {
			if p := d.port(s.Labels[0], s.Labels[1]); p != nil {
				put(p, s)
			}
		}
	}
	return map[string]rule{
		metric.FabricState.Name:  of(func(p *commonv1.PortReport, s metric.Sample) { p.State = fabric.StateName(int(s.Value)) }),
		metric.FabricRate.Name:   of(func(p *commonv1.PortReport, s metric.Sample) { p.RateBitsPerSecond = &s.Value }),
		metric.FabricDowned.Name: of(func(p *commonv1.PortReport, s metric.Sample) { p.LinkDowned = whole(s.Value) }),
		metric.FabricErrors.Name: of(func(p *commonv1.PortReport, s metric.Sample) {
			if slices.Contains(fabric.LinkErrors(), s.Labels[2]) {
				add(&p.LinkErrors, s.Value)
			} else {
				add(&p.PacketErrors, s.Value)
			}
		}),
	}
}

func processRules() map[string]rule {
	inGroup := func(put func(g *group, s metric.Sample)) rule {
		return func(d *draft, s metric.Sample) {
			if who, ok := rankOf(s); ok {
				g := d.groups[who]
				put(&g, s)
				d.groups[who] = g
			}
		}
	}
	return map[string]rule{
		metric.ProcessResident.Name: func(d *draft, s metric.Sample) {
			if p := d.process(s); p != nil {
				p.ResidentBytes = whole(s.Value)
			}
		},
		metric.ProcessCPU.Name: func(d *draft, s metric.Sample) {
			p := d.process(s)
			if p == nil {
				return
			}
			if ratio, ok := d.shares.of("process "+s.Labels[0]+" "+s.Labels[1], s.Value, seconds(s)); ok {
				p.CpuRatio = &ratio
			}
		},
		metric.CgroupMemory.Name:      inGroup(func(g *group, s metric.Sample) { g.used = whole(s.Value) }),
		metric.CgroupMemoryLimit.Name: inGroup(func(g *group, s metric.Sample) { g.limit = whole(s.Value) }),
	}
}

// label gives a label's value by its name; "" where the metric has none such.
func label(s metric.Sample, name string) string {
	if i := slices.Index(s.Def.Labels, name); i >= 0 {
		return s.Labels[i]
	}
	return ""
}

func whole(value float64) *int64 {
	n := int64(value)
	return &n
}

func truth(value float64) *bool {
	is := value != 0
	return &is
}

// add adds to a figure that may be absent so far.
func add(to **int64, value float64) {
	if *to == nil {
		*to = new(int64)
	}
	**to += int64(value)
}
