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
}

func defaultHang() HangSettings {
	return HangSettings{Medians: 100, Longest: 4, Least: 1, Window: 32, Warmup: 8}
}

// Hang finds a rank that finishes no step any more.
//
// Method: ticks, events that say that time passed and no step finished. The
// time since the last step, by the events' own clock, must exceed Medians times
// the median time between reports and Longest times the longest such time so
// far: what was longest was compilation, evaluation or a checkpoint, and was no
// hang. Declared pauses are not counted at all.
//
// What it confuses: the first long evaluation of a run that does not declare
// it, when it is longer than both. It sees nothing without ticks, and nothing
// in the first Warmup rows. It names the rank that was found first, which is
// not yet who stopped first.
func Hang(set HangSettings) detect.Rule {
	return detect.Rule{
		Code:     "hang",
		Title:    "No step finishes",
		Severity: commonv1.Severity_SEVERITY_CRITICAL,
		New: func() detect.Detector {
			return &hang{set: set, ranks: newPerRank(func() *progress {
				return &progress{gaps: detect.NewWindow(max(1, set.Window))}
			})}
		},
	}
}

type hang struct {
	set   HangSettings
	ranks perRank[progress]
	hung  *progress // the rank that was found
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

// Open tells whether the rank that was found has made no step since.
func (d *hang) Open() bool { return d.hung != nil }

// Observe takes the run's next event.
func (d *hang) Observe(event *commonv1.Event) []*controlv1.Finding {
	switch body := event.GetBody().(type) {
	case *commonv1.Event_Step:
		d.step(event, body.Step)
	case *commonv1.Event_Phase:
		d.phase(event, body.Phase)
	case *commonv1.Event_Tick:
		return d.tick(event, body.Tick)
	}
	return nil
}

func (d *hang) step(event *commonv1.Event, s *commonv1.StepReport) {
	p := d.ranks.of(event.GetRank())
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
	if d.hung == p {
		d.hung = nil
	}
}

// phase takes a declared pause, which is no hang however long it takes.
func (d *hang) phase(event *commonv1.Event, phase *commonv1.Phase) {
	p := d.ranks.of(event.GetRank())
	switch phase.GetKind() {
	case commonv1.PhaseKind_PHASE_KIND_EVALUATION, commonv1.PhaseKind_PHASE_KIND_CHECKPOINT, commonv1.PhaseKind_PHASE_KIND_SETUP:
		p.paused, p.skip = phase.GetEdge() == commonv1.PhaseEdge_PHASE_EDGE_BEGIN, true
		p.last = seconds(event)
	}
}

func (d *hang) tick(event *commonv1.Event, tick *commonv1.Tick) []*controlv1.Finding {
	p := d.ranks.of(event.GetRank())
	if p.gaps.Len() < d.set.Warmup || p.paused || d.hung != nil {
		return nil
	}
	still, median := seconds(event)-p.last, p.gaps.Median()
	limit := max(d.set.Least, d.set.Medians*median, d.set.Longest*p.longest)
	if still <= limit {
		return nil
	}
	d.hung, p.skip = p, true
	f := detect.FindingOf(event, tick.GetLastStep(), tick.GetLastStep())
	f.Summary = fmt.Sprintf("%s has finished no step for %.1f s since step %d; steps came every %.3g s, the longest pause was %.3g s.",
		who(event), still, tick.GetLastStep(), median, p.longest)
	f.Evidence = map[string]float64{"still_seconds": still, "median_seconds": median, "longest_seconds": p.longest}
	return []*controlv1.Finding{f}
}
