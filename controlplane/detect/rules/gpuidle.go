package rules

import (
	"fmt"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// GPUIdleSettings says when a GPU lies idle under a run.
type GPUIdleSettings struct {
	// Idle is the share of the time below which it is idle.
	Idle float64 `yaml:"idle"`
	// Busy is the share of the time that shows that its process works.
	Busy float64 `yaml:"busy"`
	// Hold is how long it must be idle, in seconds.
	Hold float64 `yaml:"hold"`
}

// GPUIdle finds GPUs that stop working although a run's process is still there.
//
// Method: the GPU was at least Busy (default 0.3) with this process on it, and
// is below Idle (default 0.05) for Hold seconds (default 600) now. It is a
// warning, and over when it works again or the process ends. It explains
// nothing: it is what a hang, starvation or a long evaluation on the CPU look
// like from the GPU.
//
// What it confuses: evaluations and checkpoints of more than Hold seconds, and
// notebooks that hold a GPU for a registered run.
func GPUIdle(set GPUIdleSettings) detect.NodeRule {
	return detect.NodeRule{
		Code:  "gpu-idle",
		Title: "GPU idle under a run",
		New:   func() detect.NodeDetector { return &gpuIdle{set: set} },
	}
}

type gpuIdle struct {
	set  GPUIdleSettings
	gpus parts[idleOfGPU]
}

type idleOfGPU struct {
	worked  int64 // the process under which it was busy
	problem *detect.Problem
}

// Observe takes the node's next event.
func (d *gpuIdle) Observe(event *commonv1.Event, n *detect.Node) {
	for i, g := range event.GetNodeReport().GetGpus() {
		if g.UtilizationRatio == nil {
			continue
		}
		s := d.gpus.of(i, g.GetUuid(), func() *idleOfGPU {
			return &idleOfGPU{problem: n.Problem(fmt.Sprintf("gpu%d", g.GetIndex()))}
		})
		pid := int64(0)
		for _, p := range g.GetPids() {
			if _, _, ok := n.Process(p); ok {
				pid = p
				break
			}
		}
		if g.GetUtilizationRatio() >= d.set.Busy {
			s.worked = pid
		}
		idle := pid != 0 && pid == s.worked && g.GetUtilizationRatio() < d.set.Idle
		v := detect.Verdict{Fine: !idle && (pid == 0 || g.GetUtilizationRatio() >= d.set.Busy), Hold: d.set.Hold}
		if idle {
			v.Severity = warning
		}
		s.problem.Judge(n, v, func() *controlv1.Finding {
			run, rank, _ := n.Process(pid)
			f := n.GPUFinding(g, "GPU %d of %s has done nothing for %.0f s, although process %d of run %s rank %d is on it.",
				g.GetIndex(), n.Name, d.set.Hold, pid, run, rank)
			f.Pid, f.Rank = pid, rank
			f.Evidence = map[string]float64{"utilization_ratio": g.GetUtilizationRatio(), "idle_seconds": d.set.Hold}
			return f
		})
	}
}
