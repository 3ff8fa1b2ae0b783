package rules

import (
	"math"

	"github.com/vigil-ml/vigil/controlplane/detect"
)

// rise watches the logarithm of a loss for a point above all that the loss has
// lately done. What the spike rule and the divergence rule have in common.
type rise struct {
	set   SpikeSettings
	level detect.Level
	top   *detect.Window // residuals above the level, of quiet rows

	open       bool    // since a point that stood out
	onset      int64   // its step
	base       float64 // level before it
	threshold  float64 // distance from base that stands out
	peak, last float64
	rows       int // since onset
	calm       int // rows in a row that are back
}

func newRise(set SpikeSettings) rise {
	return rise{set: set, level: detect.Level{Rate: 1 / set.Memory}, top: detect.NewWindow(max(1, set.Window))}
}

// add takes the next value and tells whether a rise begins with it.
func (r *rise) add(step int64, x float64) bool {
	if r.open {
		r.follow(x)
		return false
	}
	residual, sigma := x-r.level.Mean(), r.level.Sigma()
	floor := math.Log(r.set.Factor)
	threshold := max(floor, r.set.Sigmas*sigma)
	if r.level.N() >= r.set.Warmup && residual > threshold &&
		residual > r.top.Max()+r.set.Margin*max(floor, r.set.MarginSigmas*sigma) {
		r.open, r.onset, r.base, r.threshold = true, step, r.level.Mean(), threshold
		r.peak, r.last, r.rows, r.calm = x, x, 0, 0
		return true
	}
	if r.level.N() > 0 {
		r.top.Add(residual)
	}
	r.level.Add(x)
	return false
}

// follow takes a value while a rise is open. Only values that are back count
// for the level, so that an alarm does not get used to itself.
func (r *rise) follow(x float64) {
	r.rows++
	r.peak, r.last = max(r.peak, x), x
	if x-r.base > r.threshold {
		r.calm = 0
		return
	}
	r.level.Add(x)
	if r.calm++; r.calm >= r.set.Calm {
		r.open = false
	}
}

// rebase takes the present level as the new normal.
func (r *rise) rebase() {
	r.open = false
	r.level.Clear()
	r.top.Clear()
}
