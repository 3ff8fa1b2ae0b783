package rules

import (
	"fmt"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Hardware finds what the kernel says is broken beside the GPUs: machine checks,
// memory errors that EDAC saw, disks, file systems, network adapters, and tasks
// that hang in the kernel.
//
// Method: each fault is a finding at once, as severe as the agent's catalogue
// says (a corrected memory error is worth knowing, a file system that went
// read-only is critical). The same kind on the same device is one problem until
// it stayed away for 30 minutes.
//
// What it confuses: one disk behind several names is several problems.
func Hardware() detect.NodeRule {
	return detect.NodeRule{
		Code:     "hardware",
		Title:    "Hardware or file system fault",
		Explains: []string{kindHang, kindStraggler, kindStarvation, kindCrash},
		New:      func() detect.NodeDetector { return hardware{} },
	}
}

type hardware struct{}

// Observe takes the node's next event.
func (hardware) Observe(event *commonv1.Event, n *detect.Node) {
	f := event.GetNodeFault()
	what := hardwareNoun(f.GetKind())
	if what == "" {
		return
	}
	n.Problem(fmt.Sprintf("%d/%s", f.GetKind(), partOf(f))).Happened(n, faultSeverity(f), faultQuiet, func() *controlv1.Finding {
		if f.GetTitle() != "" {
			what += " (" + f.GetTitle() + ")"
		}
		return faultFinding(n, f, what)
	})
}

// hardwareNoun is what a fault is called; empty for those that have a rule of
// their own.
func hardwareNoun(kind commonv1.FaultKind) string {
	switch kind {
	case commonv1.FaultKind_FAULT_KIND_MACHINE_CHECK:
		return "Machine check"
	case commonv1.FaultKind_FAULT_KIND_MEMORY_ERROR:
		return "Error of main memory"
	case commonv1.FaultKind_FAULT_KIND_DISK:
		return "Disk error"
	case commonv1.FaultKind_FAULT_KIND_FILE_SYSTEM:
		return "File system error"
	case commonv1.FaultKind_FAULT_KIND_NETWORK:
		return "Network error"
	case commonv1.FaultKind_FAULT_KIND_HUNG_TASK:
		return "Task hangs in the kernel"
	}
	return ""
}
