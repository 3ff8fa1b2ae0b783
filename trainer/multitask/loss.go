package multitask

import (
	"math"

	"github.com/vigil-ml/vigil/trainer"
)

// Losses is what a batch lost, task by task, as means over its samples:
// cross-entropies in nats, and for regressions half the squared error, in units
// of the target.
type Losses []float64

// Total is the plain sum.
func (l Losses) Total() float64 {
	sum := 0.0
	for _, loss := range l {
		sum += loss
	}
	return sum
}

// Finite tells whether every loss is a number.
func (l Losses) Finite() bool {
	for _, loss := range l {
		if !finite(loss) {
			return false
		}
	}
	return true
}

// Outcome is what Compute found. Its lists are valid until the next Compute.
type Outcome struct {
	Losses       Losses
	Correct      []int   // samples whose label was told; 0 for regressions
	Weights      Losses  // how much each task counts in the step
	GradientNorm float64 // L2 norm over all parameters, before it is clipped
	// Cosine is the least between two tasks' gradients: on all shared parameters for
	// methods that combine gradients, and else on the last shared layer.
	Cosine trainer.Measured[float64]
}

// softmaxLoss gives the mean cross-entropy of a classifier's outputs and the
// number of samples whose largest output is the label, and leaves the gradient by
// the outputs in delta. Smoothing, 0 to below 1, is the share of each label that
// is spread over all classes. Samples without a label, -1, count for nothing.
func softmaxLoss(outputs, deltas []float32, labels []int, smoothing float64) (loss float64, correct int) {
	if len(labels) == 0 {
		return 0, 0
	}
	classes, known := len(outputs)/len(labels), 0
	for _, label := range labels {
		if label >= 0 {
			known++
		}
	}
	for i, label := range labels {
		out, delta := outputs[i*classes:(i+1)*classes], deltas[i*classes:(i+1)*classes]
		if label < 0 {
			clear(delta)
			continue
		}
		best := largest(out)
		if best == label {
			correct++
		}
		sum := 0.0
		for j, value := range out {
			e := math.Exp(float64(value - out[best]))
			delta[j] = float32(e)
			sum += e
		}
		loss += math.Log(sum) - float64(out[label]-out[best])
		for j := range delta {
			delta[j] /= float32(sum) * float32(known)
		}
		delta[label] -= 1 / float32(known)
		if smoothing > 0 {
			loss += smooth(out, delta, label, smoothing, float32(known))
		}
	}
	return loss / float64(max(1, known)), correct
}

// largest gives the place of the first of the largest values.
func largest(values []float32) int {
	best := 0
	for j, value := range values {
		if value > values[best] {
			best = j
		}
	}
	return best
}

// smooth turns a row's loss and gradient by a hard label into those by a smoothed
// one, and gives by how much the loss changes.
func smooth(out, delta []float32, label int, smoothing float64, rows float32) (change float64) {
	classes := float64(len(out))
	share := float32(smoothing / classes)
	mean := 0.0
	for j := range delta {
		delta[j] -= share / rows
		mean += float64(out[j]) / classes
	}
	delta[label] += float32(smoothing) / rows
	return smoothing * (float64(out[label]) - mean)
}

// squaredLoss gives half the mean squared error, and leaves the gradient by the
// outputs in delta. Targets that are not known, NaN, count for nothing.
func squaredLoss(outputs, deltas, targets []float32) (loss float64) {
	known := 0
	for _, target := range targets {
		if target == target {
			known++
		}
	}
	for i, target := range targets {
		if target != target {
			deltas[i] = 0
			continue
		}
		off := outputs[i] - target
		deltas[i] = off / float32(known)
		loss += float64(off) * float64(off) / 2
	}
	return loss / float64(max(1, known))
}

func finite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }
