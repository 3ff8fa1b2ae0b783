package scan

import (
	"fmt"
	"strings"

	"github.com/vigil-ml/vigil/internal/metric"
)

// figures is the samples by the name of their metric.
type figures map[string][]metric.Sample

func (f figures) add(samples []metric.Sample) {
	for _, s := range samples {
		f[s.Def.Name] = append(f[s.Def.Name], s)
	}
}

// of gives a metric's value with the same labels.
func (f figures) of(name string, labels []string) (float64, bool) {
	for _, s := range f[name] {
		if strings.Join(s.Labels, "\xff") == strings.Join(labels, "\xff") {
			return s.Value, true
		}
	}
	return 0, false
}

// rule gives the checks that the figures allow; none when what it needs was
// not measured.
type rule func(figures) []Check

// rules is every rule. A metric that no collector of this build has is left
// out of the report, as one that this machine does not have.
func rules(c Config) []rule {
	return []rule{
		limit("cpu", "vigil_host_cpu_busy_ratio", c.CPUBusyRatio, "something computes here already: see what with top"),
		share("memory", "vigil_host_memory_available_bytes", "vigil_host_memory_total_bytes", c.MemoryUsedRatio, 1.01,
			"something holds memory here already: see what with top"),
		share("disk", "vigil_host_disk_available_bytes", "vigil_host_disk_total_bytes", c.DiskUsedRatio, c.DiskFullRatio, "free space"),
		share("inodes", "vigil_host_disk_free_inodes", "vigil_host_disk_inodes", c.DiskUsedRatio, c.DiskFullRatio, "remove small files"),
		flag("disk read-only", "vigil_host_disk_read_only", Warn, 1, "look at the kernel log for errors of the file system"),
		flag("clock", "vigil_host_clock_synchronised", Warn, 0, "start a time service such as chronyd: events of nodes are compared by time"),
		offset(c),
		used("gpu memory", "vigil_gpu_memory_used_bytes", "vigil_gpu_memory_total_bytes", c.GPUMemoryUsedRatio,
			"a process holds the GPU's memory: see which with nvidia-smi"),
		flag("gpu stuck", "vigil_gpu_stuck", Fail, 1, "calls to the GPU do not return: drain the node and reset or restart it"),
		count("gpu ecc", "vigil_gpu_ecc_uncorrected_errors_total", Fail, "uncorrected memory errors: drain the node and reset the GPU"),
		flag("gpu remap pending", "vigil_gpu_row_remap_pending", Warn, 1, "reset the GPU when the node is empty"),
		flag("gpu remap failed", "vigil_gpu_row_remap_failed", Fail, 1, "the GPU has no spare rows left: replace it"),
		flag("gpu pages pending", "vigil_gpu_retired_pages_pending", Warn, 1, "reset the GPU when the node is empty"),
		count("gpu nvlink", "vigil_gpu_nvlinks_down", Fail, "NVLinks are down: drain the node; reset the GPUs and the fabric manager"),
		throttled,
		ports,
	}
}

// subject names what a sample is of.
func subject(name string, labels []string) string {
	return strings.TrimSpace(name + " " + strings.Join(labels, " "))
}

// verdict is a check that is fine unless it is bad.
func verdict(name string, bad bool, status Status, what, advice string) Check {
	if !bad {
		return Check{Name: name, Status: Ok, What: what}
	}
	return Check{Name: name, Status: status, What: what, Advice: advice}
}

// limit warns at a share.
func limit(name, of string, most float64, advice string) rule {
	return func(f figures) (checks []Check) {
		for _, s := range f[of] {
			checks = append(checks, verdict(subject(name, s.Labels), s.Value >= most, Warn, percent(s.Value)+" busy", advice))
		}
		return checks
	}
}

// share warns and fails at shares that are taken of a whole.
func share(name, free, whole string, warn, fail float64, advice string) rule {
	return func(f figures) (checks []Check) {
		for _, s := range f[whole] {
			left, ok := f.of(free, s.Labels)
			if !ok || s.Value <= 0 {
				continue
			}
			used := 1 - left/s.Value
			status := Warn
			if used >= fail {
				status = Fail
			}
			checks = append(checks, verdict(subject(name, s.Labels), used >= warn, status, percent(used)+" used", advice))
		}
		return checks
	}
}

// used is share where what is taken is measured, and only warns.
func used(name, taken, whole string, warn float64, advice string) rule {
	return func(f figures) (checks []Check) {
		for _, s := range f[whole] {
			if value, ok := f.of(taken, s.Labels); ok && s.Value > 0 {
				checks = append(checks, verdict(subject(name, s.Labels), value/s.Value >= warn, Warn, percent(value/s.Value)+" used", advice))
			}
		}
		return checks
	}
}

// flag is bad when a metric has a value.
func flag(name, of string, status Status, bad float64, advice string) rule {
	return func(f figures) (checks []Check) {
		for _, s := range f[of] {
			what := "no"
			if s.Value != 0 {
				what = "yes"
			}
			if bad == 0 {
				what = map[string]string{"no": "not synchronised", "yes": "synchronised"}[what]
			}
			checks = append(checks, verdict(subject(name, s.Labels), s.Value == bad, status, what, advice))
		}
		return checks
	}
}

// count is bad when a metric is above zero.
func count(name, of string, status Status, advice string) rule {
	return func(f figures) (checks []Check) {
		for _, s := range f[of] {
			checks = append(checks, verdict(subject(name, s.Labels), s.Value > 0, status, fmt.Sprintf("%.0f", s.Value), advice))
		}
		return checks
	}
}

// offset judges the clock's offset: ten times the bound fails.
func offset(c Config) rule {
	return func(f figures) (checks []Check) {
		for _, s := range f["vigil_host_clock_offset_seconds"] {
			off := max(s.Value, -s.Value)
			status := Warn
			if off >= 10*c.ClockOffset.Seconds() {
				status = Fail
			}
			checks = append(checks, verdict("clock offset", off >= c.ClockOffset.Seconds(), status,
				fmt.Sprintf("%+.3f s", s.Value), "see why the time service does not correct it"))
		}
		return checks
	}
}

// throttled warns of the reasons that hardware has; at its power limit a GPU
// that works hard always is.
func throttled(f figures) (checks []Check) {
	for _, s := range f["vigil_gpu_throttled"] {
		if len(s.Labels) < 2 || !(strings.Contains(s.Labels[1], "thermal") || strings.HasPrefix(s.Labels[1], "hardware") || strings.Contains(s.Labels[1], "brake")) {
			continue
		}
		if s.Value > 0 {
			checks = append(checks, Check{Name: subject("gpu throttled", s.Labels), Status: Warn, What: "yes", Advice: "look at cooling and power"})
		}
	}
	return checks
}

// ports warns of fabric ports that are not active (4).
func ports(f figures) (checks []Check) {
	for _, s := range f["vigil_fabric_port_state"] {
		checks = append(checks, verdict(subject("port", s.Labels), s.Value != 4, Warn, fmt.Sprintf("state %.0f of 4 (active)", s.Value),
			"look at cable and switch; a port that is not meant to be used can be switched off"))
	}
	return checks
}

func percent(ratio float64) string { return fmt.Sprintf("%.0f %%", 100*ratio) }
