package rules

import (
	"fmt"
	"math"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// StragglerSettings says when a rank has become slow.
type StragglerSettings struct {
	// Window is the number of rows whose median is judged.
	Window int `yaml:"window"`
	// Memory is the number of rows over which the level is averaged.
	Memory float64 `yaml:"memory"`
	// Warmup is the number of rows before which nothing is judged.
	Warmup int `yaml:"warmup"`
	// Factor is how many times its level the median must exceed, at least; > 1.
	Factor float64 `yaml:"factor"`
	// Sigmas is the same in sigmas of the logarithm, up to a factor of MaxFactor.
	Sigmas    float64 `yaml:"sigmas"`
	MaxFactor float64 `yaml:"max_factor"`
	// Outlier is how many times its level a single slow step exceeds, Outliers
	// how many of the window must be such.
	Outlier       float64 `yaml:"outlier"`
	OutlierSigmas float64 `yaml:"outlier_sigmas"`
	MaxOutlier    float64 `yaml:"max_outlier"`
	Outliers      int     `yaml:"outliers"`
	// Shortest is the time of a step, in seconds, below which it is not judged:
	// there the host's scheduler is what is measured, whose slices are some
	// milliseconds.
	Shortest float64 `yaml:"shortest"`
	// Patience is the number of rows after which the new level is normal.
	Patience int `yaml:"patience"`
	// Ranks is how ranks are compared with each other; its unit is the natural
	// logarithm of the ratio of times.
	Ranks detect.ExcessSettings `yaml:"ranks"`
}

func defaultStraggler() StragglerSettings {
	return StragglerSettings{
		Window: 24, Memory: 128, Warmup: 64, Factor: 1.25, Sigmas: 3, MaxFactor: 1.65,
		Outlier: 1.8, OutlierSigmas: 3, MaxOutlier: 3, Outliers: 5, Shortest: 0.005, Patience: 256,
		Ranks: detect.ExcessSettings{
			Least: 0.08, Rows: 8, Clip: 2.5, Slow: 0.3, Usual: 0.02, Forgiven: 0.2, Floor: 0.03, Between: 5e4, Warmup: 16,
		},
	}
}

// Straggler finds a rank whose steps have become slow.
//
// Method: the logarithm of the time that the rank itself works on a step: its
// computing where the trainer reports it, else the step without the wait for
// data; for each token where their number is known. The median of the last
// Window rows against a level of the rows before them (detect.Level, clipped)
// must exceed it by Factor, or by Sigmas up to MaxFactor where steps scatter;
// or Outliers rows of the window exceed it by Outlier, when so many are not
// usual for this rank (three standard deviations of the usual count).
//
// Where several ranks report what they compute, or step and communication, each
// is compared with the median rank at the same step instead, since a step takes
// equally long on all of them: see [detect.Excess] and docs/detection.md. What
// it exceeds that by, as a logarithm, must be more than chance, and it must not
// wait for the others more than the median rank does. A node whose ranks are
// slow together is one finding.
//
// What it confuses: longer sequences where tokens are not reported, and
// neighbours on a shared host, which do make the steps slow. A run of one rank
// that is slow from its first row is not found, nor ranks that all become slow.
// Without compute times nothing tells which of several ranks is to blame.
func Straggler(set StragglerSettings) detect.Rule {
	return detect.Rule{
		Code:     "straggler",
		Title:    "Steps became slow",
		Severity: commonv1.Severity_SEVERITY_WARNING,
		Under:    []string{"starvation"},
		New: func() detect.Detector {
			return &straggler{set: set, others: newSlowRank(set.Ranks), ranks: newPerRank(func() *pace {
				return &pace{short: detect.NewWindow(max(1, set.Window)), level: detect.Level{Rate: 1 / set.Memory}}
			})}
		},
	}
}

type straggler struct {
	set    StragglerSettings
	others *slowRank
	ranks  perRank[pace]
	slow   *pace // the rank that was found
}

// pace is how long a rank computes.
type pace struct {
	series   detect.Series
	short    *detect.Window
	level    detect.Level
	outliers float64 // usual number of outliers in the window
	onset    detect.Onset
	open     int // rows since it was found; 0 when it was not
}

// usual is the number of outliers in the window that would be nothing new:
// three standard deviations of a binomial count above the usual one.
func (p *pace) usual(window int) float64 {
	share := p.outliers / float64(window)
	return p.outliers + 3*math.Sqrt(p.outliers*(1-share))
}

// Open tells whether a rank that was found is still slow.
func (d *straggler) Open() bool { return d.slow != nil || d.others.peers.open > 0 }

// Observe takes the run's next event.
func (d *straggler) Observe(event *commonv1.Event) []*controlv1.Finding {
	if changes(event) {
		for _, p := range d.ranks.states {
			p.restart()
		}
		d.slow = nil
		return nil
	}
	if reshapes(event) {
		d.others.steps.Clear()
		d.others.restart()
	}
	s := event.GetStep()
	if s == nil {
		return nil
	}
	if found, compared := d.others.observe(event); compared {
		d.slow = nil
		return found
	}
	return d.own(event, s)
}

// own compares a rank with its own past.
func (d *straggler) own(event *commonv1.Event, s *commonv1.StepReport) []*controlv1.Finding {
	x := workOf(s)
	if math.IsNaN(x) || tooShort(s, d.set.Shortest) {
		return nil
	}
	p := d.ranks.of(event.GetRank())
	switch p.series.Take(event.GetAttempt(), s.GetStep()) {
	case detect.Skip:
		return nil
	case detect.Restart:
		if p.restart(); d.slow == p {
			d.slow = nil
		}
	}
	if p.short.Full() && p.open == 0 {
		p.level.Add(p.short.Oldest()) // what is judged is not part of what it is judged by
	}
	p.short.Add(x)
	level, sigma := p.level.Mean(), p.level.Sigma()
	if p.level.N() < d.set.Warmup || !p.short.Full() {
		return nil
	}
	limit := max(math.Log(d.set.Factor), min(d.set.Sigmas*sigma, math.Log(d.set.MaxFactor)))
	outlier := max(math.Log(d.set.Outlier), min(d.set.OutlierSigmas*sigma, math.Log(d.set.MaxOutlier)))
	median, outliers := p.short.Median(), p.short.Above(level+outlier)
	slow := median > level+limit || float64(outliers) >= max(float64(d.set.Outliers), p.usual(d.set.Window))
	p.onset.Mark(s.GetStep(), x > level+limit)
	if p.open == 0 {
		p.outliers += (float64(outliers) - p.outliers) / d.set.Memory
	}
	if p.open > 0 {
		d.follow(p, slow)
		return nil
	}
	if !slow {
		return nil
	}
	p.open = 1
	if d.slow != nil {
		return nil // what several ranks have at once is one finding
	}
	d.slow = p
	f := p.finding(event, level, median, outliers)
	if len(d.ranks.states) > 1 {
		f.Summary += " Without the times that each rank computes or communicates nothing tells who makes the others wait."
		named(f, 0, nil)
	}
	return []*controlv1.Finding{f}
}

// follow ends a slowness: it is over, or has become normal.
func (d *straggler) follow(p *pace, slow bool) {
	if p.open++; slow && p.open <= d.set.Patience {
		return
	}
	if slow {
		p.restart()
	}
	p.open = 0
	if d.slow == p {
		d.slow = nil
	}
}

func (p *pace) restart() {
	p.short.Clear()
	p.level.Clear()
	p.open, p.outliers, p.onset = 0, 0, detect.Onset{}
}

// tooShort tells whether a step's time says more of the host than of the step.
func tooShort(s *commonv1.StepReport, shortest float64) bool {
	return s.StepSeconds != nil && s.GetStepSeconds() < shortest
}

// workOf is the logarithm of the time that a rank works on a step: its
// computing where that is known, else the step without the wait for data, for
// each token where their number is known. NaN when it was not measured.
func workOf(s *commonv1.StepReport) float64 {
	var t float64
	switch {
	case s == nil:
		return math.NaN()
	case s.ComputeSeconds != nil:
		t = s.GetComputeSeconds()
	case s.StepSeconds != nil:
		t = s.GetStepSeconds() - s.GetDataSeconds()
	default:
		return math.NaN()
	}
	if s.GetTokens() > 0 {
		t /= float64(s.GetTokens())
	}
	return logOf(t)
}

func (p *pace) finding(event *commonv1.Event, level, median float64, outliers int) *controlv1.Finding {
	s := event.GetStep()
	f := detect.FindingOf(event, p.onset.Step(s.GetStep()), s.GetStep())
	ratio := math.Exp(median - level)
	f.Evidence = map[string]float64{"ratio": ratio, "slow_steps": float64(outliers)}
	if s.StepSeconds != nil {
		f.Evidence["step_seconds"] = s.GetStepSeconds()
	}
	f.Summary = fmt.Sprintf("%s works %.2f times as long on a step as it used to, at step %d.", who(event), ratio, s.GetStep())
	if ratio < 1.25 {
		f.Summary = fmt.Sprintf("%s is slow on some steps: %d of the last few before step %d.", who(event), outliers, s.GetStep())
	}
	return f
}
