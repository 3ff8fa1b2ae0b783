package multitask

import "fmt"

// recover does what a supervisor asks this attempt to do otherwise, and says so.
// The rate is scaled for the whole attempt. Batches are left out by drawing them
// without a step, so that the run goes on as one that never had them.
func (l *loop) recover() {
	asked := l.deps.Session.Recovery()
	var honoured []string
	l.rateScale = 1
	if scale := asked.LearningRateScale; scale > 0 && scale != 1 {
		l.rateScale = scale
		honoured = append(honoured, fmt.Sprintf("the learning rate is %g of what it was", scale))
	}
	if asked.SkipBatches > 0 {
		honoured = append(honoured, fmt.Sprintf("%d batches are left out at step %d", asked.SkipBatches, max(asked.SkipAtStep, l.training.Step()+1)))
	}
	l.deps.Session.AnswerRecovery(honoured, nil)
}

// skip leaves the batches out that a supervisor asked to be left out before a
// step.
func (l *loop) skip(step int64) {
	asked := l.deps.Session.Recovery()
	if l.skipped || asked.SkipBatches == 0 || step < asked.SkipAtStep {
		return
	}
	l.skipped = true
	for range asked.SkipBatches {
		l.training.SkipBatch()
	}
	l.deps.Log.Warn("left batches out", "batches", asked.SkipBatches, "before step", step)
}
