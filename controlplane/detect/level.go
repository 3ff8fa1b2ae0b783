package detect

import "math"

// sigmaOfDeviation is the standard deviation of a normal distribution whose
// mean absolute deviation is 1: sqrt(pi/2).
const sigmaOfDeviation = 1.2533141373155001

const (
	// clipSigmas is how many sigmas above its level a value counts at most.
	clipSigmas = 3.0
	// settle is how many values a level takes as they are, before it clips.
	settle = 8
)

// Level is where a series is and how much it scatters: exponentially weighted
// means of the value and of its absolute deviation. The weight is 1/n for the
// first values, so that the first does not count for more than the others.
//
// A value is clipped to 3 sigma above the level before it counts (Huber's psi,
// P. J. Huber, Robust Estimation of a Location Parameter, Ann. Math. Statist.
// 35, 1964), so that one outlier moves neither. Below it is not clipped: a loss
// or a step time that falls is believed at once. The zero Level with a Rate is
// ready for use.
type Level struct {
	// Rate is the weight of a new value once n exceeds 1/Rate; over 0, at most 1.
	Rate float64

	n         int
	mean, dev float64
}

// Add takes in a finite value.
func (l *Level) Add(x float64) {
	l.n++
	if l.n == 1 {
		l.mean, l.dev = x, 0
		return
	}
	excess := x - l.mean
	if sigma := l.Sigma(); l.n > settle && excess > clipSigmas*sigma {
		excess = clipSigmas * sigma
	}
	rate := max(l.Rate, 1/float64(l.n))
	l.mean += rate * excess
	l.dev += rate * (math.Abs(excess) - l.dev)
}

// N is the number of values.
func (l *Level) N() int { return l.n }

// Mean is the level.
func (l *Level) Mean() float64 { return l.mean }

// Sigma is the scatter around the level as the standard deviation of a normal
// distribution with the same absolute deviation.
func (l *Level) Sigma() float64 { return sigmaOfDeviation * l.dev }

// Clear forgets all values.
func (l *Level) Clear() { *l = Level{Rate: l.Rate} }
