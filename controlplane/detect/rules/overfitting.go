package rules

import (
	"fmt"
	"math"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// OverfittingSettings says when a model learns its training data by heart.
type OverfittingSettings struct {
	// Rise is the share by which the held-out loss must exceed its best.
	Rise float64 `yaml:"rise"`
	// Sigmas is the same in standard deviations of its change from one
	// evaluation to the next.
	Sigmas float64 `yaml:"sigmas"`
	// Confirm is the number of evaluations in a row that must look so.
	Confirm int `yaml:"confirm"`
	// Warmup is the number of evaluations before which nothing is judged.
	Warmup int `yaml:"warmup"`
	// Fall is the share by which the training loss must have fallen meanwhile.
	Fall float64 `yaml:"fall"`
	// Memory is the number of rows over which the training loss is averaged.
	Memory float64 `yaml:"memory"`
}

func defaultOverfitting() OverfittingSettings {
	return OverfittingSettings{Rise: 0.03, Sigmas: 3, Confirm: 3, Warmup: 5, Fall: 0.01, Memory: 64}
}

// Overfitting finds a held-out loss that rises from its best while the training
// loss goes on falling.
//
// Method: early stopping's sign (L. Prechelt, Early Stopping - But When?, 1998)
// with a margin that noise does not reach: over Confirm evaluations in a row
// the held-out loss exceeds its best by Rise and by Sigmas standard deviations
// of its change from evaluation to evaluation (mean absolute difference, before
// the best), and the averaged training loss is below what it was at the best by
// Fall. The onset is the step of the best evaluation, the one to go back to.
//
// What it confuses: held-out data that drifts away from the training data, and
// losses of which regularization is a part in training only. A held-out loss
// may rise while its accuracy still improves; hence a warning. It sees only
// what trainers report as evaluations.
func Overfitting(set OverfittingSettings) detect.Rule {
	return detect.Rule{
		Code:     "overfitting",
		Title:    "Held-out loss rises while training loss falls",
		Severity: commonv1.Severity_SEVERITY_WARNING,
		Under:    []string{"divergence", "nonfinite"},
		New:      func() detect.Detector { return &overfitting{set: set} },
	}
}

type overfitting struct {
	set         OverfittingSettings
	lead, judge detect.Lead // of the training loss and of the evaluations

	training    float64 // averaged training loss
	rows        int
	evaluations int
	last        float64 // held-out loss
	lastStep    int64
	jump        float64 // mean absolute change of it
	best        float64 // least held-out loss
	bestStep    int64
	bestTrain   float64 // training loss then
	above       int     // evaluations in a row over the limit
	open        bool
}

// Open tells whether the held-out loss is still above its best.
func (d *overfitting) Open() bool { return d.open }

// Observe takes the run's next event.
func (d *overfitting) Observe(event *commonv1.Event) []*controlv1.Finding {
	switch {
	case changes(event):
		*d = overfitting{set: d.set, lead: d.lead, judge: d.judge}
	case event.GetStep() != nil:
		d.step(event, event.GetStep())
	case event.GetEvaluation() != nil:
		return d.evaluation(event, event.GetEvaluation())
	}
	return nil
}

func (d *overfitting) step(event *commonv1.Event, s *commonv1.StepReport) {
	if s.Loss == nil || !finite(s.GetLoss()) || d.lead.Take(event, s.GetStep()) == detect.Skip {
		return
	}
	d.rows++
	d.training += (s.GetLoss() - d.training) / min(float64(d.rows), d.set.Memory)
}

func (d *overfitting) evaluation(event *commonv1.Event, e *commonv1.Evaluation) []*controlv1.Finding {
	if e.Loss == nil || !finite(e.GetLoss()) || d.rows == 0 {
		return nil
	}
	if d.evaluations > 0 && e.GetStep() == d.lastStep {
		return nil // of another set of data; the first of a step counts
	}
	switch d.judge.Take(event, e.GetStep()) {
	case detect.Skip:
		return nil
	case detect.Restart:
		if e.GetStep() < d.bestStep { // it went back before the best: all begins anew
			*d = overfitting{set: d.set, lead: d.lead, judge: d.judge, training: d.training, rows: d.rows}
		}
	}
	loss := e.GetLoss()
	if d.evaluations++; d.evaluations == 1 {
		d.last, d.best = loss, math.Inf(1)
	}
	change := math.Abs(loss - d.last)
	d.last, d.lastStep = loss, e.GetStep()
	if loss < d.best {
		d.best, d.bestStep, d.bestTrain, d.above, d.open = loss, e.GetStep(), d.training, 0, false
	}
	margin := max(d.set.Rise*math.Abs(d.best), d.set.Sigmas*sigmaOfDifference*d.jump)
	over := loss > d.best+margin && d.training < d.bestTrain-d.set.Fall*math.Abs(d.bestTrain)
	if !over {
		d.above = 0
		d.jump += (change - d.jump) / float64(max(1, min(d.evaluations-1, 16)))
	} else {
		d.above++
	}
	if d.open || d.above < d.set.Confirm || d.evaluations < d.set.Warmup {
		return nil
	}
	d.open = true
	f := detect.FindingOf(event, d.bestStep, e.GetStep())
	f.Summary = fmt.Sprintf("The held-out loss has risen from %.4g at step %d to %.4g at step %d while the training loss fell from %.4g to %.4g.",
		d.best, d.bestStep, loss, e.GetStep(), d.bestTrain, d.training)
	f.Evidence = map[string]float64{
		"heldout_loss": loss, "heldout_best": d.best, "training_loss": d.training, "training_loss_at_best": d.bestTrain, "margin": margin,
	}
	return []*controlv1.Finding{f}
}
