package rules

import (
	"cmp"
	"fmt"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// XIDSettings says how XIDs are judged.
type XIDSettings struct {
	// Quiet is after how many seconds without the same XID it is over.
	Quiet float64 `yaml:"quiet"`
}

const (
	info     = commonv1.Severity_SEVERITY_INFO
	warning  = commonv1.Severity_SEVERITY_WARNING
	critical = commonv1.Severity_SEVERITY_CRITICAL
)

// xidSeverity gives the XIDs whose meaning for a training run is known. Source:
// NVIDIA, XID Errors, and the recovery actions listed there.
func xidSeverity(code int32) commonv1.Severity {
	switch code {
	case 43, 45: // work was stopped, after another error or since the process ended
		return info
	case 13, 31, 68, 69: // the process made an illegal access; nothing is broken
		return warning
	case 46, // the GPU stopped processing
		48,     // double-bit ECC error
		61, 62, // a microcontroller halted
		63, 64, // row remapping: recorded, failed
		74,     // NVLink
		79,     // fallen off the bus
		92,     // too many single-bit errors
		94, 95, // uncorrectable memory error: contained, uncontained
		109, 110, // context switch timeout, security fault
		119, 120, // the GPU's system processor does not answer, or failed
		136, 140, 143, 144, 145, 149, 155: // NVLink and ECC of later generations
		return critical
	}
	return 0
}

// XID finds errors of a GPU or an NVSwitch that the driver reports.
//
// Method: each fault of kind XID or SXID is a finding at once, with the
// severity of the list above, or else what the agent's catalogue says; the same
// number on the same GPU is the same problem until it stayed away for Quiet
// seconds (default 1800). XIDs 13 and 31 are the program's own mistake nearly
// always, and warnings; 43 and 45 are consequences, and only worth knowing. All
// name the process, and its run and rank where a trainer registered it.
//
// What it confuses: 13 and 31 can come from a broken GPU too; the same XID on
// one GPU under several runs says so. A reset GPU stays "broken" for Quiet.
func XID(set XIDSettings) detect.NodeRule {
	return detect.NodeRule{
		Code:     "xid",
		Title:    "GPU error (XID)",
		Explains: []string{kindHang, kindStraggler, kindNonFinite, kindCrash},
		New:      func() detect.NodeDetector { return &xid{set} },
	}
}

type xid struct{ set XIDSettings }

// Observe takes the node's next event.
func (d *xid) Observe(event *commonv1.Event, n *detect.Node) {
	f := event.GetNodeFault()
	name := "XID"
	switch f.GetKind() {
	case commonv1.FaultKind_FAULT_KIND_XID:
	case commonv1.FaultKind_FAULT_KIND_SXID:
		name = "SXID"
	default:
		return
	}
	severity := faultSeverity(f)
	if known := xidSeverity(f.GetCode()); known != 0 && name == "XID" {
		severity = known
	}
	part := fmt.Sprintf("%s-%d/%s", name, f.GetCode(), partOf(f))
	n.Problem(part).Happened(n, severity, d.set.Quiet, func() *controlv1.Finding {
		what := fmt.Sprintf("%s %d", name, f.GetCode())
		if f.GetTitle() != "" {
			what += " (" + f.GetTitle() + ")"
		}
		finding := faultFinding(n, f, what)
		finding.Evidence["code"] = float64(f.GetCode())
		return finding
	})
}

// faultSeverity is what the agent says, or a warning.
func faultSeverity(f *commonv1.NodeFault) commonv1.Severity {
	return cmp.Or(commonv1.Severity(f.GetSeverity()), warning)
}

// partOf is the part that a fault is of.
func partOf(f *commonv1.NodeFault) string {
	switch {
	case f.Gpu != nil:
		return fmt.Sprintf("gpu%d", f.GetGpu())
	case f.GetDevice() != "":
		return f.GetDevice()
	}
	return "node"
}

// faultFinding is the finding of a fault: what, where, whom it hit, what to do.
func faultFinding(n *detect.Node, f *commonv1.NodeFault, what string) *controlv1.Finding {
	text := what + " on "
	switch {
	case f.Gpu != nil:
		text += fmt.Sprintf("GPU %d of %s", f.GetGpu(), n.Name)
	case f.GetDevice() != "":
		text += f.GetDevice() + " of " + n.Name
	default:
		text += n.Name
	}
	run, rank, trains := f.GetRunId(), f.GetRank(), f.Rank != nil
	if run == "" {
		run, rank, trains = n.Process(f.GetPid())
	}
	if f.GetPid() != 0 {
		text += fmt.Sprintf(", in process %d", f.GetPid())
		if f.GetProcess() != "" {
			text += " (" + f.GetProcess() + ")"
		}
	}
	finding := n.Finding(f.GetDevice(), "")
	if g := n.GPU(f.GetGpu()); f.Gpu != nil {
		finding = n.GPUFinding(g, "")
		finding.Device = cmp.Or(g.GetUuid(), f.GetDevice())
		finding.Gpu = f.Gpu
	}
	if run != "" {
		finding.AffectedRuns = []string{run}
		text += ", of run " + run
		if trains {
			text += fmt.Sprintf(" rank %d", rank)
			finding.Rank = rank
		}
	}
	finding.Summary, finding.Pid, finding.Evidence = text+".", f.GetPid(), map[string]float64{}
	if f.GetAdvice() != "" {
		finding.Summary += " " + f.GetAdvice()
		if last := finding.Summary[len(finding.Summary)-1]; last != '.' {
			finding.Summary += "."
		}
	}
	return finding
}
