package rules

import (
	"fmt"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// HangSettings says when a run hangs.
type HangSettings struct {
	// Medians is how many times the median time between steps none must finish.
	Medians float64 `yaml:"medians"`
	// Longest is how many times the longest time between two steps so far.
	Longest float64 `yaml:"longest"`
	// Least is the time without a step, in seconds, below which nothing hangs.
	Least float64 `yaml:"least"`
	// Window is the number of rows whose median is taken.
	Window int `yaml:"window"`
	// Warmup is the number of rows before which nothing is judged.
	Warmup int `yaml:"warmup"`
	// Apart is what is enough where several ranks are seen to be apart: one is
	// silent, or works while the others wait for it.
	Apart ApartSettings `yaml:"apart"`
}

// ApartSettings says when ranks of which some wait for others hang; see
// [HangSettings].
type ApartSettings struct {
	// Medians is how many times the median time between steps none must finish.
	Medians float64 `yaml:"medians"`
	// Longest is how many times the longest time between two steps so far.
	Longest float64 `yaml:"longest"`
	// Least is the time without a step, in seconds, below which nothing hangs.
	Least float64 `yaml:"least"`
}

func defaultHang() HangSettings {
	return HangSettings{Medians: 100, Longest: 4, Least: 1, Window: 32, Warmup: 8, Apart: ApartSettings{Medians: 60, Longest: 2, Least: 2}}
}

// Hang finds a rank that finishes no step any more.
//
// Method: ticks, events that say that time passed and no step finished. The
// time since the last step, by the events' own clock, must exceed Medians times
// the median time between reports and Longest times the longest such time so
// far: what was longest was compilation, evaluation or a checkpoint, and was no
// hang. Declared pauses are not counted at all.
//
// Of several ranks, all must stand still. It is enough that they do for Apart
// where some are seen to wait for others. Who is to blame, in this order: ranks
// that give no sign of life, that work while the others are in a collective
// operation, that are at another step; more than half of the ranks never are.
// Else nobody is named.
//
// What it confuses: the first long evaluation of a run that does not declare
// it, when it is longer than both. It sees nothing without ticks, and nothing
// in the first Warmup rows.
func Hang(set HangSettings) detect.Rule {
	return detect.Rule{
		Code:     "hang",
		Title:    "No step finishes",
		Severity: commonv1.Severity_SEVERITY_CRITICAL,
		New: func() detect.Detector {
			return &hang{set: set, alone: newProgress(set), all: newStandstill(set)}
		},
	}
}

type hang struct {
	set   HangSettings
	alone *progress   // of a run of one rank
	hung  bool        // it was found to hang
	all   *standstill // of a run of several
}

// progress is when a rank's steps finish.
type progress struct {
	series  detect.Series
	gaps    *detect.Window // seconds between the last reports
	longest float64        // seconds; longest gap that was no hang
	last    float64        // time of the last report, or of the end of a pause
	paused  bool           // a declared pause goes on
	skip    bool           // the gap that goes on is not to be learnt from
}

func newProgress(set HangSettings) *progress {
	return &progress{gaps: detect.NewWindow(max(1, set.Window))}
}

// Open tells whether the run that was found to hang has made no step since.
func (d *hang) Open() bool { return d.several() && d.all.hung || !d.several() && d.hung }

// several tells whether more than one rank was seen in this attempt.
func (d *hang) several() bool { return len(d.all.ranks) > 1 }

// Observe takes the run's next event.
func (d *hang) Observe(event *commonv1.Event) []*controlv1.Finding {
	if reshapes(event) {
		d.all = newStandstill(d.set)
	}
	switch body := event.GetBody().(type) {
	case *commonv1.Event_Step:
		if d.all.report(event, body.Step); !d.several() {
			d.step(event, body.Step)
		}
	case *commonv1.Event_Phase:
		if d.all.phase(event, body.Phase); !d.several() {
			d.phase(event, body.Phase)
		}
	case *commonv1.Event_Tick:
		if found := d.all.tick(event, body.Tick); d.several() {
			return found
		}
		return d.tick(event, body.Tick)
	}
	return nil
}

func (d *hang) step(event *commonv1.Event, s *commonv1.StepReport) {
	p := d.alone
	change, now := p.series.Take(event.GetAttempt(), s.GetStep()), seconds(event)
	switch change {
	case detect.Skip:
		return
	case detect.Restart:
		p.gaps.Clear()
		p.longest = 0
	case detect.Next:
		if gap := now - p.last; gap >= 0 && !p.skip {
			p.gaps.Add(gap)
			p.longest = max(p.longest, gap)
		}
	}
	p.last, p.paused, p.skip = now, false, false
	d.hung = false
}

// phase takes a declared pause, which is no hang however long it takes.
func (d *hang) phase(event *commonv1.Event, phase *commonv1.Phase) {
	p := d.alone
	switch phase.GetKind() {
	case commonv1.PhaseKind_PHASE_KIND_EVALUATION, commonv1.PhaseKind_PHASE_KIND_CHECKPOINT, commonv1.PhaseKind_PHASE_KIND_SETUP:
		p.paused, p.skip = phase.GetEdge() == commonv1.PhaseEdge_PHASE_EDGE_BEGIN, true
		p.last = seconds(event)
	}
}

func (d *hang) tick(event *commonv1.Event, tick *commonv1.Tick) []*controlv1.Finding {
	p := d.alone
	if p.gaps.Len() < d.set.Warmup || p.paused || d.hung {
		return nil
	}
	still, median := seconds(event)-p.last, p.gaps.Median()
	limit := max(d.set.Least, d.set.Medians*median, d.set.Longest*p.longest)
	if still <= limit {
		return nil
	}
	d.hung, p.skip = true, true
	f := detect.FindingOf(event, tick.GetLastStep(), tick.GetLastStep())
	f.Summary = fmt.Sprintf("%s has finished no step for %.1f s since step %d; steps came every %.3g s, the longest pause was %.3g s.",
		who(event), still, tick.GetLastStep(), median, p.longest)
	f.Evidence = map[string]float64{"still_seconds": still, "median_seconds": median, "longest_seconds": p.longest}
	return []*controlv1.Finding{f}
}
