package rules

import (
	"fmt"
	"math"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// maxTasks is how many tasks of a run are followed.
const maxTasks = 256

// WeightCollapseSettings says when a task of many is given up.
type WeightCollapseSettings struct {
	// Share is the share of an even part, 1/tasks, below which a task's weight
	// counts as none.
	Share float64 `yaml:"share"`
	// Fair is the share of an even part that it must have had before: a weight
	// that is small from the beginning is meant so.
	Fair float64 `yaml:"fair"`
	// Rows is the number of reports in a row that must say so.
	Rows int `yaml:"rows"`
}

func defaultWeightCollapse() WeightCollapseSettings {
	return WeightCollapseSettings{Share: 0.05, Fair: 0.5, Rows: 100}
}

// WeightCollapse finds a task whose loss has all but lost its weight.
//
// Method: a task's weight as a share of all weights' absolute values falls
// below Share of an even part, from at least Fair of it, and stays there for
// Rows reports. Methods that learn their weights do this: uncertainty weighting
// has no bound on a weight (Kendall, Gal, Cipolla 2018), and GradNorm has been
// seen to collapse one (Chen et al. 2018 keep the sum alone).
//
// What it confuses: a schedule that ends a task by intent; declare a change of
// the loss where it does.
func WeightCollapse(set WeightCollapseSettings) detect.Rule {
	return detect.Rule{
		Code:     "weight_collapse",
		Title:    "A task lost its weight",
		Severity: commonv1.Severity_SEVERITY_WARNING,
		Under:    []string{"nonfinite"},
		New:      func() detect.Detector { return &weightCollapse{set: set, tasks: map[string]*taskShare{}} },
	}
}

type weightCollapse struct {
	set   WeightCollapseSettings
	lead  detect.Lead
	tasks map[string]*taskShare
	found int // tasks that are collapsed
}

// taskShare is a task's weight as a share of an even part.
type taskShare struct {
	best  float64
	rows  int   // reports in a row below the limit
	onset int64 // the first of them
	found bool
}

// Open tells whether a task that was found is still without weight.
func (d *weightCollapse) Open() bool { return d.found > 0 }

// Observe takes the run's next event.
func (d *weightCollapse) Observe(event *commonv1.Event) []*controlv1.Finding {
	if changes(event) {
		clear(d.tasks)
		d.found = 0
		return nil
	}
	s := event.GetStep()
	if len(s.GetTaskWeights()) < 2 {
		return nil
	}
	switch d.lead.Take(event, s.GetStep()) {
	case detect.Skip:
		return nil
	case detect.Restart:
		clear(d.tasks)
		d.found = 0
	}
	sum := 0.0
	for _, weight := range s.GetTaskWeights() {
		sum += math.Abs(weight)
	}
	if !finite(sum) || sum == 0 {
		return nil
	}
	even, named := sum/float64(len(s.GetTaskWeights())), ""
	for task, weight := range s.GetTaskWeights() {
		if d.task(task, math.Abs(weight)/even, s.GetStep()) && (named == "" || task < named) {
			named = task
		}
	}
	if named == "" {
		return nil
	}
	state, share := d.tasks[named], math.Abs(s.GetTaskWeights()[named])/sum
	f := detect.FindingOf(event, state.onset, s.GetStep())
	f.Layer = named
	f.Summary = fmt.Sprintf("Task %s has had %.2g %% of all weight since step %d, where an even part is %.2g %%: the model no longer learns it.",
		named, 100*share, state.onset, 100/float64(len(s.GetTaskWeights())))
	f.Evidence = map[string]float64{"share": share, "even_share": 1 / float64(len(s.GetTaskWeights())), "collapsed_tasks": float64(d.found)}
	return []*controlv1.Finding{f}
}

// task takes a task's share and tells whether it has now collapsed.
func (d *weightCollapse) task(name string, share float64, step int64) bool {
	state := d.tasks[name]
	if state == nil {
		if len(d.tasks) >= maxTasks {
			return false
		}
		state = &taskShare{}
		d.tasks[name] = state
	}
	state.best = max(state.best, share)
	if share >= d.set.Share || state.best < d.set.Fair {
		if state.found {
			d.found--
		}
		state.rows, state.found = 0, false
		return false
	}
	if state.rows++; state.rows == 1 {
		state.onset = step
	}
	if state.found || state.rows < d.set.Rows {
		return false
	}
	state.found = true
	d.found++
	return true
}
