package rules

import (
	"fmt"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// ThresholdSettings says when a share is too much.
type ThresholdSettings struct {
	// Limit is the share from which on it is.
	Limit float64 `yaml:"limit"`
	// Clear is the share below which it is no longer.
	Clear float64 `yaml:"clear"`
	// Hold is how long it must be at the limit, in seconds.
	Hold float64 `yaml:"hold"`
	// Release is how long it must be clear, in seconds.
	Release float64 `yaml:"release"`
}

// verdict judges a share.
func (s ThresholdSettings) verdict(share float64, severity commonv1.Severity) detect.Verdict {
	v := detect.Verdict{Fine: share < s.Clear, Hold: s.Hold, Release: s.Release}
	if share >= s.Limit {
		v.Severity = severity
	}
	return v
}

// MemoryHigh finds a machine that is short of memory.
//
// Method: the share of memory that new work cannot have without swapping is at
// Limit (default 0.90) for Hold seconds (default 120), and over below Clear
// (default 0.87): what the page cache holds counts as free. A warning.
//
// What it confuses: a machine that is meant to be full.
func MemoryHigh(set ThresholdSettings) detect.NodeRule {
	return hostThreshold("memory-high", "Memory nearly full", set, []string{kindHang}, func(r *commonv1.NodeReport) (float64, bool) {
		if r.MemoryAvailableBytes == nil || r.GetMemoryTotalBytes() <= 0 {
			return 0, false
		}
		return 1 - float64(r.GetMemoryAvailableBytes())/float64(r.GetMemoryTotalBytes()), true
	}, "%s uses %.0f %% of its memory for %.0f s.")
}

// CPUHigh finds a machine whose CPUs are all busy.
//
// Method: the share of all CPUs' time that was not idle is at Limit (default
// 0.95) for Hold seconds (default 600), and over below Clear (default 0.90). A
// warning: loaders that wait for CPU starve the GPUs, and a run that starves
// names it as its cause; but a machine may also just be used well.
//
// What it confuses: compilation and preprocessing, which are meant to use all.
func CPUHigh(set ThresholdSettings) detect.NodeRule {
	return hostThreshold("cpu-high", "CPUs all busy", set, []string{kindStarvation, kindStraggler}, func(r *commonv1.NodeReport) (float64, bool) {
		return r.GetCpuBusyRatio(), r.CpuBusyRatio != nil
	}, "The CPUs of %s are %.0f %% busy for %.0f s.")
}

func hostThreshold(code, title string, set ThresholdSettings, explains []string,
	share func(*commonv1.NodeReport) (float64, bool), text string,
) detect.NodeRule {
	return detect.NodeRule{Code: code, Title: title, Explains: explains, New: func() detect.NodeDetector {
		return &threshold{set: set, share: share, text: text}
	}}
}

// threshold is the state of a share of the whole machine.
type threshold struct {
	set     ThresholdSettings
	share   func(*commonv1.NodeReport) (float64, bool)
	text    string
	problem *detect.Problem
}

// Observe takes the node's next event.
func (d *threshold) Observe(event *commonv1.Event, n *detect.Node) {
	r := event.GetNodeReport()
	if r == nil {
		return
	}
	share, ok := d.share(r)
	if !ok {
		return
	}
	if d.problem == nil {
		d.problem = n.Problem("host")
	}
	d.problem.Judge(n, d.set.verdict(share, warning), func() *controlv1.Finding {
		f := n.Finding("host", d.text, n.Name, 100*share, d.set.Hold)
		f.Evidence = map[string]float64{"ratio": share, "limit_ratio": d.set.Limit}
		return f
	})
}

// GPUMemoryHigh says that a GPU's memory is nearly full.
//
// Method: used memory is at Limit (default 0.95) of all for Hold seconds
// (default 300), and over below Clear (default 0.92). It is only worth knowing
// (info) and opens no incident: frameworks that take all memory at the start, or
// keep what they freed, look like this while they are well. What is wrong with
// it shows as a leak or as an exception of the allocator.
//
// What it confuses: preallocation with need.
func GPUMemoryHigh(set ThresholdSettings) detect.NodeRule {
	return detect.NodeRule{Code: "gpu-memory-high", Title: "GPU memory nearly full", New: func() detect.NodeDetector {
		return &gpuMemoryHigh{set: set}
	}}
}

type gpuMemoryHigh struct {
	set  ThresholdSettings
	gpus parts[detect.Problem]
}

// Observe takes the node's next event.
func (d *gpuMemoryHigh) Observe(event *commonv1.Event, n *detect.Node) {
	for i, g := range event.GetNodeReport().GetGpus() {
		if g.MemoryUsedBytes == nil || g.GetMemoryTotalBytes() <= 0 {
			continue
		}
		p := d.gpus.of(i, g.GetUuid(), func() *detect.Problem { return n.Problem(fmt.Sprintf("gpu%d", g.GetIndex())) })
		share := float64(g.GetMemoryUsedBytes()) / float64(g.GetMemoryTotalBytes())
		p.Judge(n, d.set.verdict(share, info), func() *controlv1.Finding {
			f := n.GPUFinding(g, "GPU %d of %s uses %.0f %% of its memory for %.0f s, which is normal where a framework takes it all.",
				g.GetIndex(), n.Name, 100*share, d.set.Hold)
			f.Evidence = map[string]float64{"ratio": share, "limit_ratio": d.set.Limit}
			return f
		})
	}
}
