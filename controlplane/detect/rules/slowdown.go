package rules

import (
	"fmt"
	"math"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// SlowdownSettings says when a whole run has become slow.
type SlowdownSettings struct {
	// Factor is how many times its usual time a rank must work on a step; > 1.
	Factor float64 `yaml:"factor"`
	// Sigmas is the same in sigmas of the logarithm, up to a factor of MaxFactor.
	Sigmas    float64 `yaml:"sigmas"`
	MaxFactor float64 `yaml:"max_factor"`
	// Share is the share of the ranks, 0 to 1, that must be so slow.
	Share float64 `yaml:"share"`
	// Hold is the number of rows of the lowest rank for which they must be.
	Hold int `yaml:"hold"`
	// Recent is the number of rows over which a rank's present time is averaged,
	// Memory over which its usual one is.
	Recent float64 `yaml:"recent"`
	Memory float64 `yaml:"memory"`
	// Warmup is the number of rows before which a rank is not judged. Early in a
	// run its pace changes by intent: curricula, caches that fill, autotuning.
	Warmup int `yaml:"warmup"`
	// Shortest is the time of a step, in seconds, below which it is not judged;
	// see [StragglerSettings].
	Shortest float64 `yaml:"shortest"`
	// Patience is the number of rows after which the new pace is normal.
	Patience int `yaml:"patience"`
}

func defaultSlowdown() SlowdownSettings {
	return SlowdownSettings{
		Factor: 1.25, Sigmas: 3, MaxFactor: 1.65, Share: 0.9, Hold: 128, Recent: 8, Memory: 256, Warmup: 512,
		Shortest: 0.005, Patience: 512,
	}
}

// Slowdown finds a run all of whose ranks work longer on a step than they used
// to: a regression of its step time, which is no rank's fault.
//
// Method: for each rank the logarithm of the time that it works on a step (see
// [Straggler]), averaged over Recent rows, against its own level (detect.Level)
// by Factor, or by Sigmas up to MaxFactor where steps scatter; at least Share of
// the ranks so for Hold rows. The level learns from no row that is slow. A run
// of one rank is the straggler rule's.
//
// What it confuses: harder data where tokens are not reported; declare the
// change. Where ranks report no computing time, one straggler makes all of them
// slow, and the straggler rule, which explains this one, may not tell.
func Slowdown(set SlowdownSettings) detect.Rule {
	return detect.Rule{
		Code:     "slowdown",
		Title:    "The whole run became slow",
		Severity: commonv1.Severity_SEVERITY_WARNING,
		Under:    []string{"straggler", "starvation"},
		New: func() detect.Detector {
			return &slowdown{set: set, ranks: newPerRank(func() *rankPace {
				return &rankPace{level: detect.Level{Rate: 1 / set.Memory}}
			})}
		},
	}
}

type slowdown struct {
	set    SlowdownSettings
	ranks  perRank[rankPace]
	lead   detect.Lead
	judged int     // ranks that have made enough rows
	slow   int     // of these, those that are slow
	ratio  float64 // averaged logarithm of slow ranks' ratios
	held   int     // rows of the lowest rank for which enough were slow
	onset  int64
	open   int // rows since it was found; 0 when it was not
}

// rankPace is how long a rank works on a step.
type rankPace struct {
	series       detect.Series
	level        detect.Level
	recent       float64
	rows         int
	judged, slow bool
}

// Open tells whether the run is still slow.
func (d *slowdown) Open() bool { return d.open > 0 }

// Observe takes the run's next event.
func (d *slowdown) Observe(event *commonv1.Event) []*controlv1.Finding {
	if changes(event) {
		d.restart()
		return nil
	}
	s := event.GetStep()
	x := workOf(s)
	if math.IsNaN(x) || tooShort(s, d.set.Shortest) {
		return nil
	}
	p := d.ranks.of(event.GetRank())
	switch p.series.Take(event.GetAttempt(), s.GetStep()) {
	case detect.Skip:
		return nil
	case detect.Restart:
		d.forget(p)
	}
	d.pace(p, x)
	if d.lead.Take(event, s.GetStep()) == detect.Skip {
		return nil
	}
	return d.judge(event)
}

// pace takes a rank's next time.
func (d *slowdown) pace(p *rankPace, x float64) {
	p.rows++
	p.recent += (x - p.recent) / min(float64(p.rows), d.set.Recent)
	if p.rows < d.set.Warmup {
		p.level.Add(x)
		return
	}
	if !p.judged {
		p.judged = true
		d.judged++
	}
	limit := max(math.Log(d.set.Factor), min(d.set.Sigmas*p.level.Sigma(), math.Log(d.set.MaxFactor)))
	slow := p.recent > p.level.Mean()+limit
	if slow != p.slow {
		p.slow = slow
		if slow {
			d.slow++
		} else {
			d.slow--
		}
	}
	if slow {
		d.ratio += (p.recent - p.level.Mean() - d.ratio) / min(float64(d.held+1), d.set.Recent)
		return
	}
	p.level.Add(x)
}

// judge looks at all ranks with each row of the lowest.
func (d *slowdown) judge(event *commonv1.Event) []*controlv1.Finding {
	step := event.GetStep().GetStep()
	all := d.judged > 1 && float64(d.slow) >= d.set.Share*float64(d.judged)
	if !all {
		d.held, d.open = 0, 0
		return nil
	}
	if d.held++; d.held == 1 {
		d.onset = step
	}
	if d.open > 0 {
		if d.open++; d.open > d.set.Patience {
			d.restart()
		}
		return nil
	}
	if d.held < d.set.Hold {
		return nil
	}
	d.open = 1
	f := detect.FindingOf(event, d.onset, step)
	f.Rank, f.Node = 0, "" // it is nobody's fault
	ratio := math.Exp(d.ratio)
	f.Summary = fmt.Sprintf("%d of %d ranks work about %.2f times as long on a step as they used to, since step %d.", d.slow, d.judged, ratio, d.onset)
	f.Evidence = map[string]float64{"ratio": ratio, "slow_ranks": float64(d.slow), "ranks": float64(d.judged)}
	return []*controlv1.Finding{f}
}

// forget has a rank begin anew.
func (d *slowdown) forget(p *rankPace) {
	if p.judged {
		d.judged--
	}
	if p.slow {
		d.slow--
	}
	p.level.Clear()
	p.recent, p.rows, p.judged, p.slow = 0, 0, false, false
}

func (d *slowdown) restart() {
	for _, p := range d.ranks.states {
		d.forget(p)
	}
	d.held, d.open, d.ratio = 0, 0, 0
}
