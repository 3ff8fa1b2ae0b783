package rules

import (
	"fmt"
	"math"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// ExplosionSettings says when a gradient has exploded.
type ExplosionSettings struct {
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
	// Patience is the number of rows after which the new level is normal.
	Patience int `yaml:"patience"`
}

func defaultExplosion() ExplosionSettings {
	return ExplosionSettings{Window: 10, Memory: 128, Warmup: 30, Factor: 5, Sigmas: 6, MaxFactor: 12, Patience: 200}
}

// Explosion finds a gradient norm that has left its level for far above.
//
// Method: the median of the logarithms of the last Window norms against the
// greatest level that the run has had (detect.Level over Memory rows, of rows
// that have left the window). It must exceed it by Factor, and by Sigmas up to
// MaxFactor: an exploding series inflates its own sigma, which must not raise
// the bar. A median of 10 passes the bar with the 6th row, and one wild batch
// does not move it.
//
// What it confuses: a gradient that grows tenfold over hundreds of rows is
// found late or is taken for normal, and one that a rescaled loss has scaled
// looks the same. Where norms are reported after clipping there is nothing to
// see.
func Explosion(set ExplosionSettings) detect.Rule {
	return detect.Rule{
		Code:     "explosion",
		Title:    "Gradient explodes",
		Severity: commonv1.Severity_SEVERITY_CRITICAL,
		New: func() detect.Detector {
			return &explosion{set: set, g: newGradient(set.Window, set.Memory, set.Warmup)}
		},
	}
}

type explosion struct {
	set   ExplosionSettings
	g     gradient
	onset detect.Onset
}

// Open tells whether the gradient is still high.
func (d *explosion) Open() bool { return d.g.open > 0 }

// Observe takes the run's next event.
func (d *explosion) Observe(event *commonv1.Event) []*controlv1.Finding {
	if !d.g.take(event) || !d.g.ready() {
		return nil
	}
	limit := max(math.Log(d.set.Factor), min(d.set.Sigmas*d.g.level.Sigma(), math.Log(d.set.MaxFactor)))
	median, level := d.g.short.Median(), max(d.g.level.Mean(), d.g.best)
	high := median > level+limit
	d.onset.Mark(event.GetStep().GetStep(), logOf(event.GetStep().GetGradientNorm()) > level+limit/2)
	if !d.g.episode(high, !high, d.set.Patience) {
		return nil
	}
	s := event.GetStep()
	f := detect.FindingOf(event, d.onset.Step(s.GetStep()), s.GetStep())
	ratio := math.Exp(median - level)
	f.Summary = fmt.Sprintf("%s reports gradient norms of %.4g at step %d, %.1f times the highest level so far, %.4g.",
		who(event), math.Exp(median), s.GetStep(), ratio, math.Exp(level))
	f.Evidence = map[string]float64{
		"gradient_norm": s.GetGradientNorm(), "median": math.Exp(median), "level": math.Exp(level), "ratio": ratio,
	}
	return []*controlv1.Finding{f}
}
