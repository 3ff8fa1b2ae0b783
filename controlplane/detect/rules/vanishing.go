package rules

import (
	"fmt"
	"math"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// VanishingSettings says when a gradient has vanished.
type VanishingSettings struct {
	// Window is the number of rows whose median is judged.
	Window int `yaml:"window"`
	// Memory is the number of rows over which the level is averaged.
	Memory float64 `yaml:"memory"`
	// Warmup is the number of rows before which nothing is judged.
	Warmup int `yaml:"warmup"`
	// Factor is how many times below its level the median must be, at least; > 1.
	Factor float64 `yaml:"factor"`
	// Sigmas is the same in sigmas of the logarithm, up to a factor of MaxFactor.
	Sigmas    float64 `yaml:"sigmas"`
	MaxFactor float64 `yaml:"max_factor"`
	// Zeros is the number of zero norms in a row that is enough.
	Zeros int `yaml:"zeros"`
	// Patience is the number of rows after which the new level is normal.
	Patience int `yaml:"patience"`
}

func defaultVanishing() VanishingSettings {
	return VanishingSettings{Window: 10, Memory: 128, Warmup: 30, Factor: 8, Sigmas: 6, MaxFactor: 12, Zeros: 5, Patience: 200}
}

// Vanishing finds a gradient norm that has left its level for far below, or is
// zero.
//
// Method: as [Explosion], downwards against the present level, which follows a
// norm that falls slowly as it does in healthy training; or Zeros norms in a
// row that are zero. By as much as the loss is below its own level the norm may
// be too: a run that fits its data better has smaller gradients, in proportion
// to the loss for cross-entropy and to its root for squares.
//
// What it confuses: a run that has fitted its data to the end has vanishing
// gradients too, and a slow decay is found late. Loss scaling that reports
// scaled norms moves them by powers of two.
func Vanishing(set VanishingSettings) detect.Rule {
	return detect.Rule{
		Code:     "vanishing",
		Title:    "Gradient vanishes",
		Severity: commonv1.Severity_SEVERITY_CRITICAL,
		New: func() detect.Detector {
			d := &vanishing{set: set, g: newGradient(set.Window, set.Memory, set.Warmup)}
			d.g.loss = newFit(set.Window, set.Memory)
			return d
		},
	}
}

type vanishing struct {
	set   VanishingSettings
	g     gradient
	onset detect.Onset
}

// Open tells whether the gradient is still low.
func (d *vanishing) Open() bool { return d.g.open > 0 }

// Observe takes the run's next event.
func (d *vanishing) Observe(event *commonv1.Event) []*controlv1.Finding {
	if !d.g.take(event) {
		return nil
	}
	zero := d.g.zeros >= d.set.Zeros
	if !zero && !d.g.ready() {
		return nil
	}
	level := d.g.level.Mean()
	limit := max(math.Log(d.set.Factor), min(d.set.Sigmas*d.g.level.Sigma(), math.Log(d.set.MaxFactor)))
	limit += d.g.loss.gained()
	low := zero || (d.g.zeros == 0 && d.g.short.Median() < level-limit)
	norm := event.GetStep().GetGradientNorm()
	d.onset.Mark(event.GetStep().GetStep(), norm < gradientFloor || math.Log(norm) < level-limit/2)
	if !d.g.episode(low, !low && d.g.zeros == 0, d.set.Patience) {
		return nil
	}
	return d.finding(event, level)
}

func (d *vanishing) finding(event *commonv1.Event, level float64) []*controlv1.Finding {
	s := event.GetStep()
	f := detect.FindingOf(event, d.onset.Step(s.GetStep()), s.GetStep())
	f.Evidence = map[string]float64{"gradient_norm": s.GetGradientNorm(), "level": math.Exp(level), "zeros": float64(d.g.zeros)}
	if d.g.zeros > 0 {
		f.Summary = fmt.Sprintf("%s reports a gradient norm of zero for %d steps in a row at step %d; its level was %.4g.",
			who(event), d.g.zeros, s.GetStep(), math.Exp(level))
		return []*controlv1.Finding{f}
	}
	median := d.g.short.Median()
	f.Evidence["median"], f.Evidence["ratio"] = math.Exp(median), math.Exp(median-level)
	f.Evidence["loss_gained"] = math.Exp(d.g.loss.gained())
	f.Summary = fmt.Sprintf("%s reports gradient norms of %.4g at step %d, %.1f times below their level of %.4g.",
		who(event), math.Exp(median), s.GetStep(), math.Exp(level-median), math.Exp(level))
	return []*controlv1.Finding{f}
}
