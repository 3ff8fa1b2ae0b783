package rules

import (
	"math"

	"github.com/vigil-ml/vigil/controlplane/detect"
)

// sigmaOfDifference is the standard deviation of a normal distribution of which
// two values differ by 1 in the mean: sqrt(pi)/2.
const sigmaOfDifference = 0.886226925452758

// rise watches the logarithm of a loss for a point above all that the loss has
// lately done. What the spike rule and the divergence rule have in common.
type rise struct {
	set   *SpikeSettings // the rule's, which its runs share
	level detect.Level
	top   *detect.Window // residuals above the level, of quiet rows

	before, jump float64 // the last quiet value; mean absolute difference of such

	open       bool    // since a point that stood out
	onset      int64   // its step
	base       float64 // level before it
	threshold  float64 // distance from base that stands out
	peak, last float64
	rows       int // since onset
	calm       int // rows in a row that are back
}

func newRise(set *SpikeSettings) rise {
	return rise{set: set, level: detect.Level{Rate: 1 / set.Memory}, top: detect.NewWindow(max(1, set.Window))}
}

// add takes the next value and tells whether a rise begins with it.
func (r *rise) add(step int64, x float64) bool {
	if r.open {
		r.follow(x)
		return false
	}
	residual, sigma := x-r.level.Mean(), r.sigma()
	floor := math.Log(r.set.Factor)
	threshold := max(floor, min(r.set.Sigmas*sigma, math.Log(r.set.MaxFactor)))
	if r.level.N() >= r.set.Warmup && residual > threshold &&
		residual > r.top.Max()+r.set.Margin*max(floor, min(r.set.MarginSigmas*sigma, math.Log(r.set.MaxFactor))) {
		r.open, r.onset, r.base, r.threshold = true, step, r.level.Mean(), threshold
		r.peak, r.last, r.rows, r.calm = x, x, 0, 0
		return true
	}
	r.learn(x, residual)
	return false
}

// learn takes in a quiet value.
func (r *rise) learn(x, residual float64) {
	if r.level.N() > 0 {
		r.top.Add(residual)
		jump := min(math.Abs(x-r.before), 3*max(r.jump, r.level.Sigma()))
		r.jump += (jump - r.jump) / min(float64(r.level.N()), r.set.Memory)
	}
	r.before = x
	r.level.Add(x)
}

// sigma is the scatter of the loss: that around its level or, where it is
// less, that of one value to the next. A loss that falls fast is far from its
// level without scattering.
func (r *rise) sigma() float64 {
	return min(r.level.Sigma(), r.jump*sigmaOfDifference)
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
	r.jump = 0
	r.top.Clear()
}
