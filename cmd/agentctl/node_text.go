package main

import (
	"fmt"
	"strings"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// nodeReportText is how a node is, in one line; what was not measured is left
// out.
func nodeReportText(r *commonv1.NodeReport) string {
	parts := []string{"report"}
	if r.CpuBusyRatio != nil {
		parts = append(parts, fmt.Sprintf("cpu %.0f %%", 100*r.GetCpuBusyRatio()))
	}
	if r.MemoryAvailableBytes != nil && r.GetMemoryTotalBytes() > 0 {
		parts = append(parts, fmt.Sprintf("memory %.0f %%", 100-100*float64(r.GetMemoryAvailableBytes())/float64(r.GetMemoryTotalBytes())))
	}
	var busy []string
	for _, g := range r.GetGpus() {
		if g.UtilizationRatio != nil {
			busy = append(busy, fmt.Sprintf("%.0f", 100*g.GetUtilizationRatio()))
		}
	}
	if len(busy) > 0 {
		parts = append(parts, "gpus "+strings.Join(busy, " ")+" %")
	}
	for _, fs := range r.GetFileSystems() {
		if fs.GetSizeBytes() > 0 {
			parts = append(parts, fmt.Sprintf("%s %.0f %%", fs.GetMount(), 100-100*float64(fs.GetAvailableBytes())/float64(fs.GetSizeBytes())))
		}
	}
	if n := len(r.GetProcesses()); n > 0 {
		parts = append(parts, count(n, "trainer"))
	}
	return strings.Join(parts, "  ")
}

// nodeFaultText is what a node says is broken.
func nodeFaultText(f *commonv1.NodeFault) (string, style) {
	text := "fault: " + word(f.GetKind())
	if f.GetCode() != 0 {
		text += fmt.Sprintf(" %d", f.GetCode())
	}
	if f.GetTitle() != "" {
		text += " (" + f.GetTitle() + ")"
	}
	if f.Gpu != nil {
		text += fmt.Sprintf(" on GPU %d", f.GetGpu())
	} else if f.GetDevice() != "" {
		text += " on " + f.GetDevice()
	}
	if f.GetPid() != 0 {
		text += fmt.Sprintf(", process %d %s", f.GetPid(), f.GetProcess())
	}
	if f.GetRunId() != "" {
		text += ", run " + f.GetRunId()
	}
	if f.GetSeverity() == commonv1.FaultSeverity_FAULT_SEVERITY_CRITICAL {
		return text, bad
	}
	return text, warn
}

// nodeLinkText is whether a node is heard.
func nodeLinkText(l *commonv1.NodeLink) (string, style) {
	text, look := "control plane: "+word(l.GetState()), plainStyle
	switch l.GetState() {
	case commonv1.LinkState_LINK_STATE_LOST:
		look = bad
	case commonv1.LinkState_LINK_STATE_DISCONNECTED:
		look = warn
	}
	if l.ClockAheadSeconds != nil {
		text += fmt.Sprintf(", its clock is %+.2f s ahead", l.GetClockAheadSeconds())
	}
	return text, look
}
