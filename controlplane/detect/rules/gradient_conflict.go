package rules

import (
	"fmt"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// GradientConflictSettings says when tasks pull against each other.
type GradientConflictSettings struct {
	// Cosine is how far below zero the median cosine must be.
	Cosine float64 `yaml:"cosine"`
	// Share is the share of reports, 0 to 1, that must be below zero.
	Share float64 `yaml:"share"`
	// Window is the number of reports that are judged.
	Window int `yaml:"window"`
}

func defaultGradientConflict() GradientConflictSettings {
	return GradientConflictSettings{Cosine: 0.1, Share: 0.9, Window: 50}
}

// GradientConflict finds tasks whose gradients point against each other, step
// after step.
//
// Method: of the last Window reports of the least cosine between two tasks'
// gradients, Share are below zero and the median is below -Cosine. That
// gradients conflict now and then is usual (Yu et al., Gradient Surgery for
// Multi-Task Learning, 2020); that they always do says that the tasks do not
// share what they are made to share. For information alone.
//
// What it confuses: methods that change conflicting gradients (PCGrad, CAGrad)
// report the cosine from before they do, and may be fine. With many tasks the
// least of many cosines is below zero by chance.
func GradientConflict(set GradientConflictSettings) detect.Rule {
	return detect.Rule{
		Code:     "gradient_conflict",
		Title:    "Tasks pull against each other",
		Severity: commonv1.Severity_SEVERITY_INFO,
		Under:    []string{"nonfinite", "divergence"},
		New: func() detect.Detector {
			return &gradientConflict{set: set, window: detect.NewWindow(max(1, set.Window))}
		},
	}
}

type gradientConflict struct {
	set    GradientConflictSettings
	lead   detect.Lead
	window *detect.Window
	onset  detect.Onset
	open   bool
}

// Open tells whether the tasks still conflict.
func (d *gradientConflict) Open() bool { return d.open }

// Observe takes the run's next event.
func (d *gradientConflict) Observe(event *commonv1.Event) []*controlv1.Finding {
	s := event.GetStep()
	if s == nil || s.GradientCosine == nil || !finite(s.GetGradientCosine()) {
		return nil
	}
	switch d.lead.Take(event, s.GetStep()) {
	case detect.Skip:
		return nil
	case detect.Restart:
		d.window.Clear()
		d.onset, d.open = detect.Onset{}, false
	}
	d.window.Add(s.GetGradientCosine())
	d.onset.Mark(s.GetStep(), s.GetGradientCosine() < 0)
	if !d.window.Full() {
		return nil
	}
	median := d.window.Median()
	negative := 1 - float64(d.window.Above(0))/float64(d.set.Window)
	if d.open {
		d.open = median < 0 // it must come back above zero before it is told again
		return nil
	}
	if median >= -d.set.Cosine || negative < d.set.Share {
		return nil
	}
	d.open = true
	f := detect.FindingOf(event, d.onset.Step(s.GetStep()), s.GetStep())
	f.Summary = fmt.Sprintf("The tasks' gradients point against each other in %.0f %% of the last %d reports before step %d, with a median cosine of %.2f.",
		100*negative, d.set.Window, s.GetStep(), median)
	f.Evidence = map[string]float64{"cosine": median, "negative_share": negative}
	return []*controlv1.Finding{f}
}
