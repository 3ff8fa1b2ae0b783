package multitask

import (
	"math"

	"github.com/vigil-ml/vigil/trainer"
	"github.com/vigil-ml/vigil/trainer/balance"
)

// looks tells whether the tasks' gradients are compared in the step: where the
// method needs their norms, and now and then to see whether they conflict.
func (t *Training) looks() bool {
	every := t.config.Balance.CosineEvery
	return t.balancer.Needs() == balance.Norms || len(t.tasks) > 1 && every > 0 && (t.step+1)%every == 0
}

// gather computes each task's gradient by itself on what the tasks share, all of
// it or the last layer, and their dot products.
func (t *Training) gather(rows int, lastOnly bool) {
	r := &t.room
	for i, task := range r.each {
		t.net.BackwardTrunk(rows, task, lastOnly)
		if !lastOnly {
			copy(r.parts[i], t.net.Gradients[:t.net.Shared])
			continue
		}
		at := 0
		for _, tensor := range r.last {
			at += copy(r.parts[i][at:], tensor.Of(t.net.Gradients))
		}
	}
	balance.Dots(r.dots, r.parts)
	for i := range t.tasks {
		r.norms[i] = math.Sqrt(r.dots[i*len(t.tasks)+i])
	}
	if cosine := balance.LeastCosine(r.dots, len(t.tasks)); !math.IsNaN(cosine) {
		t.outcome.Cosine = trainer.Known(cosine)
	}
}

// weigh asks the method for the step's weights, in its first pass. What is not
// finite it does not learn from: the weights stay as they are, and the step is
// going to be stopped.
func (t *Training) weigh(part int) {
	if part > 0 {
		return
	}
	_, err := t.balancer.Weigh(balance.Observation{Step: t.step + 1, Losses: t.room.losses, Norms: t.room.norms, Gram: t.room.dots})
	t.weighed = err == nil
	copy(t.outcome.Weights, t.balancer.Weights())
}

// combine sets the gradient of what the tasks share to the weighted sum of
// theirs. What a task has for itself keeps its own gradient.
func (t *Training) combine() {
	shared := t.net.Gradients[:t.net.Shared]
	clear(shared)
	for i, w := range t.outcome.Weights {
		for k, g := range t.room.parts[i] {
			shared[k] += float32(w) * g
		}
	}
}
