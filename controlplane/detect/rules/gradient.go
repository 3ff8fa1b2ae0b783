package rules

import (
	"math"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// gradientFloor is a gradient norm that counts as zero: the least normal
// single-precision number.
const gradientFloor = 1.1754944e-38

// gradient follows the logarithm of the gradient norm: the median of the last
// rows, the level of the run, and the greatest level that it had. What the
// rules for explosion and vanishing have in common.
type gradient struct {
	lead   detect.Lead
	short  *detect.Window
	level  detect.Level
	warmup int
	best   float64 // greatest level after warm-up
	loss   *fit    // nil where it does not matter
	zeros  int     // zero norms in a row
	open   int     // rows since a problem was found; 0 when there is none
	quiet  bool    // the level is not to learn; a restart lets it, also while one is open
}

func newGradient(window int, memory float64, warmup int) gradient {
	return gradient{short: detect.NewWindow(max(1, window)), level: detect.Level{Rate: 1 / memory}, warmup: warmup, best: math.Inf(-1)}
}

// take takes the next event and tells whether there is a new value to judge.
func (g *gradient) take(event *commonv1.Event) bool {
	if changes(event) {
		g.restart()
		return false
	}
	s := event.GetStep()
	if s == nil || s.GradientNorm == nil {
		return false
	}
	switch g.lead.Take(event, s.GetStep()) {
	case detect.Skip:
		return false
	case detect.Restart:
		g.restart()
	}
	norm := s.GetGradientNorm()
	if !finite(norm) || norm < 0 {
		return false
	}
	if norm < gradientFloor {
		g.zeros++
		return g.level.N() > 0
	}
	g.zeros = 0
	x := math.Log(norm)
	if g.short.Full() && !g.quiet {
		g.level.Add(g.short.Oldest()) // what is judged is not part of what it is judged by
		if g.level.N() >= g.warmup {
			g.best = max(g.best, g.level.Mean())
		}
	}
	g.short.Add(x)
	g.loss.take(s, !g.quiet)
	return true
}

// ready tells whether there is enough to judge by.
func (g *gradient) ready() bool { return g.level.N() >= g.warmup && g.short.Full() }

func (g *gradient) restart() {
	g.short.Clear()
	g.level.Clear()
	g.loss.clear()
	g.best, g.zeros, g.quiet = math.Inf(-1), 0, false
}

// episode takes in whether the norm is bad now and tells whether a problem
// begins with it. While one is open the level does not learn. It is over when
// the caller says so, or after some rows, when what was bad is what is normal.
func (g *gradient) episode(bad, over bool, patience int) (begins bool) {
	if g.open == 0 {
		if bad {
			g.open, g.quiet = 1, true
		}
		return bad
	}
	if g.open++; over || g.open > patience {
		g.open = 0
		if bad {
			g.restart()
		}
	}
	g.quiet = g.open > 0
	return false
}

// fit follows the logarithm of the loss as [gradient] does that of the norm, to
// tell by how much a run fits its data better. A nil fit tells nothing.
type fit struct {
	short *detect.Window
	level detect.Level
}

func newFit(window int, memory float64) *fit {
	return &fit{short: detect.NewWindow(max(1, window)), level: detect.Level{Rate: 1 / memory}}
}

func (f *fit) take(s *commonv1.StepReport, learn bool) {
	if f == nil || s.Loss == nil || !finite(s.GetLoss()) || s.GetLoss() <= 0 {
		return
	}
	if f.short.Full() && learn {
		f.level.Add(f.short.Oldest())
	}
	f.short.Add(math.Log(s.GetLoss()))
}

// gained is by how much, as a logarithm, the loss is below its level; 0 where
// it is not, or nothing is known.
func (f *fit) gained() float64 {
	if f == nil || f.level.N() == 0 {
		return 0
	}
	return max(0, f.level.Mean()-f.short.Median())
}

func (f *fit) clear() {
	if f != nil {
		f.short.Clear()
		f.level.Clear()
	}
}
