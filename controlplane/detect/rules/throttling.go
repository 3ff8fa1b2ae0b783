package rules

import (
	"fmt"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// ThrottlingSettings says when a GPU counts as throttled.
type ThrottlingSettings struct {
	// Ratio is the share of its highest clock below which a GPU that is too hot,
	// or braked by its board, is throttled.
	Ratio float64 `yaml:"ratio"`
	// CapRatio is the same for a GPU at its power limit.
	CapRatio float64 `yaml:"cap_ratio"`
	// Busy is how busy it must be, as a share of the time.
	Busy float64 `yaml:"busy"`
	// Hold is how long it must last, in seconds.
	Hold float64 `yaml:"hold"`
	// Release is how long it must be over, in seconds.
	Release float64 `yaml:"release"`
}

// Throttling finds GPUs that run slower than they could while they have work.
//
// Method: the driver's reasons together with the clock. Heat, the power brake
// and a hardware slowdown count when the clock is below Ratio (default 0.85) of
// the highest; the power limit counts only below CapRatio (default 0.6), since a
// GPU that trains is at its power limit most of the time and that is as it
// should be. It must last Hold seconds (default 60) on a GPU that is busy. It is
// a warning: nothing is lost but time; a run that becomes slow by it names it as
// its cause.
//
// What it confuses: a lowered clock that somebody set by intent is not among the
// reasons and is not found.
func Throttling(set ThrottlingSettings) detect.NodeRule {
	return detect.NodeRule{
		Code:     "throttling",
		Title:    "GPU throttled",
		Explains: []string{kindStraggler},
		New:      func() detect.NodeDetector { return &throttling{set: set} },
	}
}

type throttling struct {
	set  ThrottlingSettings
	gpus parts[detect.Problem]
}

// Observe takes the node's next event.
func (d *throttling) Observe(event *commonv1.Event, n *detect.Node) {
	for i, g := range event.GetNodeReport().GetGpus() {
		if g.SmClockHertz == nil || g.GetSmClockMaxHertz() <= 0 {
			continue
		}
		p := d.gpus.of(i, g.GetUuid(), func() *detect.Problem { return n.Problem(fmt.Sprintf("gpu%d", g.GetIndex())) })
		ratio := g.GetSmClockHertz() / g.GetSmClockMaxHertz()
		why, limit := d.reason(g)
		busy := g.UtilizationRatio == nil || g.GetUtilizationRatio() >= d.set.Busy
		v := detect.Verdict{Hold: d.set.Hold, Release: d.set.Release, Fine: why == "" || ratio >= min(1, limit+0.05)}
		if why != "" && busy && ratio < limit {
			v.Severity = warning
		}
		p.Judge(n, v, func() *controlv1.Finding {
			f := n.GPUFinding(g, "GPU %d of %s runs at %.0f %% of its clock for %.0f s: %s.", g.GetIndex(), n.Name, 100*ratio, d.set.Hold, why)
			f.Evidence = map[string]float64{"clock_ratio": ratio, "clock_hertz": g.GetSmClockHertz()}
			if g.TemperatureCelsius != nil {
				f.Evidence["temperature_celsius"] = g.GetTemperatureCelsius()
			}
			if g.PowerWatts != nil {
				f.Evidence["power_watts"] = g.GetPowerWatts()
			}
			return f
		})
	}
}

// reason gives the worst reason and the share of the clock below which it
// matters; empty when there is none.
func (d *throttling) reason(g *commonv1.GpuReport) (why string, limit float64) {
	for _, r := range g.GetThrottle() {
		switch r {
		case commonv1.ThrottleReason_THROTTLE_REASON_HARDWARE_THERMAL, commonv1.ThrottleReason_THROTTLE_REASON_SOFTWARE_THERMAL:
			return "it is too hot", d.set.Ratio
		case commonv1.ThrottleReason_THROTTLE_REASON_POWER_BRAKE:
			return "the power brake of its board or chassis is on", d.set.Ratio
		case commonv1.ThrottleReason_THROTTLE_REASON_HARDWARE_SLOWDOWN:
			why, limit = "its hardware slows it down, for heat or power", d.set.Ratio
		case commonv1.ThrottleReason_THROTTLE_REASON_POWER_CAP:
			if why == "" {
				why, limit = "it is at its power limit", d.set.CapRatio
			}
		}
	}
	return why, limit
}
