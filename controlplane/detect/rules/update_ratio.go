package rules

import (
	"fmt"
	"math"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// UpdateRatioSettings says when updates are too large or too small.
type UpdateRatioSettings struct {
	// High is the ratio of the update's norm to the parameters' above which
	// updates are too large.
	High float64 `yaml:"high"`
	// Low is the ratio below which they are too small.
	Low float64 `yaml:"low"`
	// Window is the number of reports whose median is judged.
	Window int `yaml:"window"`
	// Warmup is the number of reports before which nothing is judged: parameters
	// that begin near zero, and a learning rate that rises, are no problem.
	Warmup int `yaml:"warmup"`
	// Rate is the share of the greatest learning rate so far below which small
	// updates are meant.
	Rate float64 `yaml:"rate"`
}

func defaultUpdateRatio() UpdateRatioSettings {
	return UpdateRatioSettings{High: 0.1, Low: 1e-7, Window: 16, Warmup: 32, Rate: 0.5}
}

// UpdateRatio finds updates that rewrite the parameters, or leave them as they
// are.
//
// Method: the median of the last Window reported ratios of the norm of an
// update to that of the parameters leaves Low to High. About 0.001 is healthy
// (A. Karpathy, CS231n, Neural Networks Part 3: ratio of weights to updates);
// the bounds are two and four orders of magnitude away from it. Small updates
// count only while the learning rate, where it is known, is near its greatest.
//
// What it confuses: fine-tuning of few of the parameters, where the norm of all
// of them is much larger than that of those that move; report the ratio of what
// is trained.
func UpdateRatio(set UpdateRatioSettings) detect.Rule {
	return detect.Rule{
		Code:     "update_ratio",
		Title:    "Updates are too large or too small",
		Severity: commonv1.Severity_SEVERITY_WARNING,
		Under:    []string{"divergence", "nonfinite", "explosion", "vanishing"},
		New: func() detect.Detector {
			return &updateRatio{set: set, window: detect.NewWindow(max(1, set.Window))}
		},
	}
}

type updateRatio struct {
	set     UpdateRatioSettings
	lead    detect.Lead
	window  *detect.Window
	rows    int
	rate    float64 // greatest learning rate
	onset   detect.Onset
	outside bool
}

// Open tells whether updates are still too large or too small.
func (d *updateRatio) Open() bool { return d.outside }

// Observe takes the run's next event.
func (d *updateRatio) Observe(event *commonv1.Event) []*controlv1.Finding {
	s := event.GetStep()
	if s == nil || s.UpdateRatio == nil || !finite(s.GetUpdateRatio()) || s.GetUpdateRatio() < 0 {
		return nil
	}
	switch d.lead.Take(event, s.GetStep()) {
	case detect.Skip:
		return nil
	case detect.Restart:
		d.window.Clear()
		d.rows, d.onset, d.outside = 0, detect.Onset{}, false
	}
	x := s.GetUpdateRatio()
	d.rows++
	d.window.Add(x)
	slow := false
	if s.LearningRate != nil && finite(s.GetLearningRate()) {
		d.rate = max(d.rate, s.GetLearningRate())
		slow = s.GetLearningRate() < d.set.Rate*d.rate
	}
	d.onset.Mark(s.GetStep(), x > d.set.High || (x < d.set.Low && !slow))
	if d.rows < d.set.Warmup || !d.window.Full() {
		return nil
	}
	median := d.window.Median()
	large, small := median > d.set.High, median < d.set.Low && !slow
	began := (large || small) && !d.outside
	d.outside = large || small
	if !began {
		return nil
	}
	f := detect.FindingOf(event, d.onset.Step(s.GetStep()), s.GetStep())
	f.Evidence = map[string]float64{"update_ratio": median, "high": d.set.High, "low": d.set.Low}
	f.Summary = fmt.Sprintf("Each update changes the parameters by %.2g of their size at step %d: learning goes nowhere; about 0.001 is usual.", median, s.GetStep())
	if large {
		f.Summary = fmt.Sprintf("Each update changes the parameters by %.2g of their size at step %d: what was learnt is overwritten; about 0.001 is usual.",
			median, s.GetStep())
	}
	if s.LearningRate != nil && !math.IsNaN(s.GetLearningRate()) && !math.IsInf(s.GetLearningRate(), 0) {
		f.Evidence["learning_rate"] = s.GetLearningRate()
	}
	return []*controlv1.Finding{f}
}
