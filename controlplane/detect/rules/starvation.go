package rules

import (
	"fmt"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// StarvationSettings says when training waits for its data.
type StarvationSettings struct {
	// Memory is the number of rows over which the present share is averaged.
	Memory float64 `yaml:"memory"`
	// Baseline is the number of rows over which the usual share is averaged.
	Baseline float64 `yaml:"baseline"`
	// Warmup is the number of rows before which nothing is judged.
	Warmup int `yaml:"warmup"`
	// Share is the share of the time, 0 to 1, that waiting must exceed.
	Share float64 `yaml:"share"`
	// Above is by how much the share must exceed the usual one.
	Above float64 `yaml:"above"`
	// Least is the number of rows, of the last Memory, that must have waited so:
	// one slow file is no starvation.
	Least float64 `yaml:"least"`
	// Shortest is the time of a step, in seconds, below which it is not judged;
	// see [StragglerSettings].
	Shortest float64 `yaml:"shortest"`
	// Patience is the number of rows after which the new share is normal.
	Patience int `yaml:"patience"`
	// Ranks is how ranks are compared with each other; its unit is the share of a
	// step by which a rank waits longer than the median rank.
	Ranks detect.ExcessSettings `yaml:"ranks"`
}

func defaultStarvation() StarvationSettings {
	return StarvationSettings{
		Memory: 16, Baseline: 128, Warmup: 32, Share: 0.3, Above: 0.2, Least: 2, Shortest: 0.005, Patience: 256,
		Ranks: detect.ExcessSettings{
			Least: 0.1, Rows: 8, Clip: 2.5, Slow: 0.2, Usual: 0.03, Forgiven: 0.1, Floor: 0.05, Between: 5e4, Warmup: 16,
		},
	}
}

// Starvation finds a rank that waits for its data.
//
// Method: the share of time that goes to waiting, time-weighted over Memory
// rows: over Share, and by Above over the usual share of this rank, with more
// than Least rows that waited so. A finding of this kind suppresses stragglers:
// steps that wait for data are slow.
//
// Of several ranks, each is compared with the median rank at the same step: the
// time that it waits longer, as a share of the step ([detect.Excess]). The
// method above then judges the median rank, and a finding of it blames nobody.
//
// What it confuses: a loader that is slow from the first row is not found,
// since that is the usual share; bursts further apart than Memory rows are not
// either.
func Starvation(set StarvationSettings) detect.Rule {
	return detect.Rule{
		Code:     "starvation",
		Title:    "Training waits for data",
		Severity: commonv1.Severity_SEVERITY_WARNING,
		New: func() detect.Detector {
			return &starvation{set: set, ranks: newHungryRank(set)}
		},
	}
}

type starvation struct {
	set    StarvationSettings
	series detect.Series
	alone  wait        // of a run of one rank
	ranks  *hungryRank // of a run of several
}

// wait is how long a rank waits for data, as weighted sums of seconds.
type wait struct {
	n                    int
	waits                float64 // rows of late whose own share is over the limit
	data, step           float64 // of late
	usualData, usualStep float64
	onset                detect.Onset
	open                 int // rows since it was found; 0 when it was not
}

// Open tells whether a rank that was found still waits.
func (d *starvation) Open() bool { return d.alone.open > 0 || d.ranks.open() }

// Observe takes the run's next event.
func (d *starvation) Observe(event *commonv1.Event) []*controlv1.Finding {
	if reshapes(event) {
		d.ranks.clear()
	}
	s := event.GetStep()
	if s == nil || s.StepSeconds == nil || s.DataSeconds == nil {
		return nil
	}
	step, data := s.GetStepSeconds(), s.GetDataSeconds()
	if !finite(step) || !finite(data) || step <= 0 || data < 0 || tooShort(s, d.set.Shortest) {
		return nil
	}
	if found, several := d.ranks.observe(event, step, data); several {
		d.alone = wait{}
		return found
	}
	switch d.series.Take(event.GetAttempt(), s.GetStep()) {
	case detect.Skip:
		return nil
	case detect.Restart:
		d.alone = wait{}
	}
	share, usual, starves := d.alone.take(d.set, s.GetStep(), step, min(data, step))
	if !starves {
		return nil
	}
	f := detect.FindingOf(event, d.alone.onset.Step(s.GetStep()), s.GetStep())
	f.Summary = fmt.Sprintf("%s waits for data %.0f %% of the time at step %d, %.0f %% before.", who(event), 100*share, s.GetStep(), 100*usual)
	f.Evidence = map[string]float64{"data_share": share, "data_share_before": usual, "data_seconds": data, "step_seconds": step}
	return []*controlv1.Finding{f}
}

// take takes in a row, with data at most step, and tells what share of the time
// is waited for data, what share usually is, and whether a starvation begins.
func (w *wait) take(set StarvationSettings, at int64, step, data float64) (share, usual float64, starves bool) {
	w.add(set, step, data)
	w.onset.Mark(at, data > set.Share*step)
	if w.n < set.Warmup {
		return 0, 0, false
	}
	share, usual = w.data/w.step, w.usualData/w.usualStep
	starves = share > set.Share && share > usual+set.Above && w.waits > set.Least
	if w.open > 0 {
		w.follow(set, starves)
		return share, usual, false
	}
	if starves {
		w.open = 1
	}
	return share, usual, starves
}

func (w *wait) add(set StarvationSettings, step, data float64) {
	w.n++
	rate := 1 / min(float64(w.n), set.Memory)
	w.data, w.step = w.data+rate*(data-w.data), w.step+rate*(step-w.step)
	w.waits -= w.waits / set.Memory
	if data > set.Share*step {
		w.waits++
	}
	if w.open > 0 {
		return
	}
	rate = 1 / min(float64(w.n), set.Baseline)
	w.usualData, w.usualStep = w.usualData+rate*(data-w.usualData), w.usualStep+rate*(step-w.usualStep)
}

// follow ends a starvation: it is over, or has become normal.
func (w *wait) follow(set StarvationSettings, starves bool) {
	switch w.open++; {
	case !starves:
		w.open = 0
	case w.open > set.Patience:
		*w = wait{}
	}
}
