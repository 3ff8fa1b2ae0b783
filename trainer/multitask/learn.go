package multitask

import (
	"context"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
)

// Point is how a training stood at a step.
type Point struct {
	Step  int64
	Score Score
}

// Learn makes a training's steps with nobody watching, up to a number of them in
// all, and gives its scores: before the first step, after every so many, and
// after the last. It fails with fault.Invalid when a value is not finite, and
// with the context's error when that ends.
func Learn(ctx context.Context, t *Training, steps, every int64) ([]Point, error) {
	group := life.NewGroup(context.WithoutCancel(ctx))
	defer func() { _ = group.Wait() }() // making batches does not fail
	defer t.Work(group)()
	points := []Point{{t.Step(), t.Evaluate()}}
	for t.Step() < steps && !t.Stopped() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if what := t.NonFinite(t.Compute()); what != nil {
			return nil, fault.New(fault.Invalid, "learn: step %d: %s is not finite", what.GetStep(), what.GetTensor())
		}
		step := t.Step() + 1
		t.Apply(t.config.Schedule.At(step, steps))
		if step == steps || every > 0 && step%every == 0 {
			score := t.Evaluate()
			t.note(score)
			points = append(points, Point{step, score})
		}
	}
	return points, nil
}
