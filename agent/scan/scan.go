// Package scan judges a node once: it turns what the collectors measured, and
// what they said is broken, into checks with a status and advice. It measures
// nothing itself and needs no running agent.
package scan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vigil-ml/vigil/agent/collect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// Status is what a check came to.
type Status string

// The statuses. Neither unsupported nor unknown is healthy; unsupported is no
// reason to worry, as where there is no GPU.
const (
	Ok          Status = "ok"
	Unsupported Status = "unsupported"
	Unknown     Status = "unknown" // could not be told
	Warn        Status = "warn"    // work can go on; somebody should look
	Fail        Status = "fail"    // give the node no work
)

// rank orders statuses from harmless to bad.
func (s Status) rank() int {
	return slices.Index([]Status{Ok, Unsupported, Unknown, Warn, Fail}, s)
}

// Check is one thing that was looked at.
type Check struct {
	Name   string `json:"name"` // what kind, and of what: "disk /", "gpu 3 ecc"
	Status Status `json:"status"`
	What   string `json:"what"`             // what was found
	Advice string `json:"advice,omitempty"` // what to do; empty when nothing is
}

// Report is a node's checks.
type Report struct {
	Node   string    `json:"node"`
	Time   time.Time `json:"time"`
	Status Status    `json:"status"` // the worst
	Checks []Check   `json:"checks"` // the worst first
}

// Config is the thresholds; they are those of the detection rules.
type Config struct {
	// CPUBusyRatio, MemoryUsedRatio, GPUMemoryUsedRatio and DiskUsedRatio warn;
	// 0 to 1.
	CPUBusyRatio       float64 `yaml:"cpu_busy_ratio"`
	MemoryUsedRatio    float64 `yaml:"memory_used_ratio"`
	GPUMemoryUsedRatio float64 `yaml:"gpu_memory_used_ratio"`
	DiskUsedRatio      float64 `yaml:"disk_used_ratio"`
	// DiskFullRatio fails, of space and of inodes.
	DiskFullRatio float64 `yaml:"disk_full_ratio"`
	// ClockOffset warns.
	ClockOffset time.Duration `yaml:"clock_offset"`
}

// Defaults is right for a node that is about to get a job.
func Defaults() Config {
	return Config{
		CPUBusyRatio: 0.95, MemoryUsedRatio: 0.90, GPUMemoryUsedRatio: 0.95, DiskUsedRatio: 0.95, DiskFullRatio: 0.99,
		ClockOffset: 500 * time.Millisecond,
	}
}

// Check reports thresholds that nothing or everything meets.
func (c Config) Check(report func(key, format string, args ...any)) {
	for key, ratio := range map[string]float64{
		"cpu_busy_ratio": c.CPUBusyRatio, "memory_used_ratio": c.MemoryUsedRatio,
		"gpu_memory_used_ratio": c.GPUMemoryUsedRatio, "disk_used_ratio": c.DiskUsedRatio, "disk_full_ratio": c.DiskFullRatio,
	} {
		if !(ratio > 0 && ratio <= 1) {
			report(key, "is %v; want more than 0 and at most 1", ratio)
		}
	}
	if c.ClockOffset <= 0 {
		report("clock_offset", "is %v; want more than 0", c.ClockOffset)
	}
}

// Judge turns results and faults into a report; its node and time are the
// caller's to fill in.
func Judge(config Config, results []collect.Result, faults []*commonv1.NodeFault) Report {
	var checks []Check
	all := figures{}
	for _, r := range results {
		checks = append(checks, collector(r))
		all.add(r.Samples)
	}
	for _, rule := range rules(config) {
		checks = append(checks, rule(all)...)
	}
	checks = append(checks, faulty(faults)...)
	slices.SortStableFunc(checks, func(a, b Check) int {
		return cmp.Or(cmp.Compare(b.Status.rank(), a.Status.rank()), cmp.Compare(a.Name, b.Name))
	})
	report := Report{Status: Ok, Checks: checks}
	if len(checks) > 0 && checks[0].Status != Unsupported {
		report.Status = checks[0].Status
	}
	return report
}

// collector says how a collector is.
func collector(r collect.Result) Check {
	c := Check{Name: "collector " + r.Name, What: fmt.Sprintf("%d series", len(r.Samples))}
	switch r.Status {
	case collect.Ok:
		c.Status = Ok
		return c
	case collect.Unsupported:
		c.Status, c.What = Unsupported, "there is nothing to measure here"
	case collect.Stuck:
		c.Status = Fail
		c.Advice = "a driver or device hangs: take the node out of use and look at the kernel log"
	default:
		c.Status = Unknown
		c.Advice = "see what the error says, or switch the collector off"
	}
	if r.Err != nil {
		c.What, _, _ = strings.Cut(r.Err.Error(), "\n")
	}
	return c
}

// faulty has a check for each fault; equal ones are counted together.
func faulty(faults []*commonv1.NodeFault) []Check {
	var checks []Check
	times := map[string]int{}
	at := map[string]int{}
	for _, f := range faults {
		kind := strings.ToLower(strings.TrimPrefix(f.GetKind().String(), "FAULT_KIND_"))
		name := strings.TrimSpace("fault " + kind + " " + f.GetDevice())
		if f.GetCode() != 0 {
			name = strings.TrimSpace(fmt.Sprintf("fault %s %d %s", kind, f.GetCode(), f.GetDevice()))
		}
		c := Check{Name: name, What: cmp.Or(f.GetTitle(), f.GetMessage()), Advice: f.GetAdvice(), Status: Warn}
		switch f.GetSeverity() {
		case commonv1.FaultSeverity_FAULT_SEVERITY_CRITICAL:
			c.Status = Fail
		case commonv1.FaultSeverity_FAULT_SEVERITY_INFO:
			c.Status = Ok
		}
		if times[name]++; times[name] == 1 {
			at[name] = len(checks)
			checks = append(checks, c)
		} else {
			checks[at[name]].What = fmt.Sprintf("%s (%d times since the machine started)", c.What, times[name])
		}
	}
	return checks
}
