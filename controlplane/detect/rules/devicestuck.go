package rules

import (
	"maps"
	"slices"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// DeviceStuckSettings says when a collector counts as stuck.
type DeviceStuckSettings struct {
	// Hold is how long its collector must be stuck, in seconds.
	Hold float64 `yaml:"hold"`
}

// DeviceStuck finds devices that do not answer.
//
// Method: the agent asks drivers in a process that it can end, and says when a
// call did not return: that fault is critical for a GPU, since work on it hangs
// as the call does, and as severe as the agent says otherwise. A collector that
// stays "stuck" for Hold seconds (default 30) is a warning: that part of the
// node is not watched, which is not the same as healthy.
//
// What it confuses: a machine that is so short of CPU that nothing returns.
func DeviceStuck(set DeviceStuckSettings) detect.NodeRule {
	return detect.NodeRule{
		Code:     "device-stuck",
		Title:    "Device does not answer",
		Explains: []string{kindHang, kindStraggler, kindCrash},
		New:      func() detect.NodeDetector { return &deviceStuck{set: set} },
	}
}

type deviceStuck struct {
	set        DeviceStuckSettings
	collectors map[string]*detect.Problem // those that were stuck once
}

// Observe takes the node's next event.
func (d *deviceStuck) Observe(event *commonv1.Event, n *detect.Node) {
	if f := event.GetNodeFault(); f.GetKind() == commonv1.FaultKind_FAULT_KIND_DEVICE_STUCK {
		severity := faultSeverity(f)
		if f.Gpu != nil {
			severity = critical
		}
		n.Problem(partOf(f)).Happened(n, severity, faultQuiet, func() *controlv1.Finding {
			return faultFinding(n, f, "A call that does not return")
		})
	}
	r := event.GetNodeReport()
	if r == nil || (len(r.GetCollectors()) == 0 && len(d.collectors) == 0) {
		return
	}
	for name, state := range r.GetCollectors() {
		if state == "stuck" && d.collectors[name] == nil {
			if d.collectors == nil {
				d.collectors = map[string]*detect.Problem{}
			}
			d.collectors[name] = n.Problem("collector-" + name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.collectors)) {
		v := detect.Verdict{Fine: true, Hold: d.set.Hold}
		if r.GetCollectors()[name] == "stuck" {
			v.Fine, v.Severity = false, warning
		}
		d.collectors[name].Judge(n, v, func() *controlv1.Finding {
			return n.Finding(name, "Collector %s of %s has been stuck for %.0f s: what it watches is not watched.", name, n.Name, d.set.Hold)
		})
	}
}
