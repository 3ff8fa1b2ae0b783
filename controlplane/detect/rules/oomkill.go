package rules

import (
	"cmp"
	"fmt"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// OOMKill finds processes that the kernel killed because memory ran out.
//
// Method: the kernel's own word, which names the victim. It is critical when the
// victim is a process that a trainer registered, whose run and rank it names,
// and a warning otherwise: on a node that trains, what ran out of memory is
// seldom alone. Several victims of one run within 30 minutes are one problem.
//
// What it confuses: nothing known; a victim that is a child of a trainer, such
// as a data loader, is named as such only where the agent knows it.
func OOMKill() detect.NodeRule {
	return detect.NodeRule{
		Code:     "oom-kill",
		Title:    "Killed for lack of memory",
		Explains: []string{kindCrash, kindHang},
		New:      func() detect.NodeDetector { return oomKill{} },
	}
}

type oomKill struct{}

// Observe takes the node's next event.
func (oomKill) Observe(event *commonv1.Event, n *detect.Node) {
	f := event.GetNodeFault()
	if f.GetKind() != commonv1.FaultKind_FAULT_KIND_OOM_KILL {
		return
	}
	run := f.GetRunId()
	if run == "" {
		run, _, _ = n.Process(f.GetPid())
	}
	severity, part := warning, cmp.Or(f.GetProcess(), "process")
	if run != "" {
		severity, part = critical, "run-"+run
	}
	n.Problem(part).Happened(n, severity, faultQuiet, func() *controlv1.Finding {
		finding := faultFinding(n, f, fmt.Sprintf("The kernel killed process %d for lack of memory", f.GetPid()))
		finding.Device = "memory"
		return finding
	})
}
