package multitask

import (
	"math"

	"github.com/vigil-ml/vigil/trainer/digits"
)

// Losses is what a batch lost, task by task, as means over the batch.
type Losses struct {
	Left  float64 // cross-entropy of the left digit, in nats
	Right float64 // cross-entropy of the right digit, in nats
	Ink   float64 // half the squared error of the ink, in InkUnit squared
}

// Total is the loss that is minimized: the plain sum.
func (l Losses) Total() float64 { return l.Left + l.Right + l.Ink }

// Finite tells whether every loss is a number.
func (l Losses) Finite() bool { return finite(l.Left) && finite(l.Right) && finite(l.Ink) }

// softmaxLoss gives the mean cross-entropy and the number of rows whose
// largest output is the label, and leaves the gradient by the outputs in the
// layer's delta. Smoothing, 0 to below 1, is the share of each label that is
// spread over all classes.
func softmaxLoss(head *dense, labels []int, smoothing float64) (loss float64, correct int) {
	for i, label := range labels {
		out := head.out[i*digits.Classes : (i+1)*digits.Classes]
		delta := head.delta[i*digits.Classes : (i+1)*digits.Classes]
		best := 0
		for j, value := range out {
			if value > out[best] {
				best = j
			}
		}
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
			delta[j] /= float32(sum) * float32(len(labels))
		}
		delta[label] -= 1 / float32(len(labels))
		if smoothing > 0 {
			loss += smooth(out, delta, label, smoothing, float32(len(labels)))
		}
	}
	return loss / float64(len(labels)), correct
}

// smooth turns a row's loss and gradient by a hard label into those by a smoothed
// one, and gives by how much the loss changes.
func smooth(out, delta []float32, label int, smoothing float64, rows float32) (change float64) {
	share := float32(smoothing / digits.Classes)
	mean := 0.0
	for j := range delta {
		delta[j] -= share / rows
		mean += float64(out[j]) / digits.Classes
	}
	delta[label] += float32(smoothing) / rows
	return smoothing * (float64(out[label]) - mean)
}

// squaredLoss gives half the mean squared error and the mean absolute error,
// and leaves the gradient by the outputs in the layer's delta.
func squaredLoss(head *dense, targets []float32) (loss, absolute float64) {
	for i, target := range targets {
		off := head.out[i] - target
		head.delta[i] = off / float32(len(targets))
		loss += float64(off) * float64(off) / 2
		absolute += math.Abs(float64(off))
	}
	rows := float64(len(targets))
	return loss / rows, absolute / rows
}

func finite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }
