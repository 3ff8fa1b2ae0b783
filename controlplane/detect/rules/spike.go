package rules

import (
	"fmt"
	"math"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// SpikeSettings says what stands out of a loss.
type SpikeSettings struct {
	// Factor is by how many times its level a loss must exceed it, at least; > 1.
	Factor float64 `yaml:"factor"`
	// Sigmas is the same in sigmas of the logarithm, for losses that scatter.
	Sigmas float64 `yaml:"sigmas"`
	// MaxFactor bounds what Sigmas and MarginSigmas ask for, since a loss that
	// has just fallen or risen far has a large sigma.
	MaxFactor float64 `yaml:"max_factor"`
	// Margin is the share of the larger of Factor and MarginSigmas by which the
	// loss must also exceed what it reached in the Window.
	Margin float64 `yaml:"margin"`
	// MarginSigmas goes with Margin.
	MarginSigmas float64 `yaml:"margin_sigmas"`
	// Window is the number of rows looked back for that.
	Window int `yaml:"window"`
	// Memory is the number of rows over which level and scatter are averaged.
	Memory float64 `yaml:"memory"`
	// Warmup is the number of rows before which nothing is judged.
	Warmup int `yaml:"warmup"`
	// Calm is the number of rows in a row that end a rise.
	Calm int `yaml:"calm"`
	// Patience is the number of rows after which a rise that stays is the new
	// level.
	Patience int `yaml:"patience"`
}

func defaultSpike() SpikeSettings {
	return SpikeSettings{
		Factor: 1.15, Sigmas: 4, MaxFactor: 6, Margin: 0.7, MarginSigmas: 2, Window: 64, Memory: 16, Warmup: 12, Calm: 3, Patience: 100,
	}
}

// Spike finds a loss that jumps above everything it has lately done.
//
// Method: the logarithm of the loss against a Huberised exponentially weighted
// level (detect.Level). A row stands out when it is above the level by Factor
// and by Sigmas, and above the highest residual of the last Window rows by
// Margin of that: a loss that has two modes jumps often, and its jumps are
// nothing new. The scatter is the lesser of that around the level and that from
// row to row, since a falling loss is far from its level without scattering.
// The level learns nothing while a rise is open. The scale of Factor and Margin
// was found on recorded runs (docs/detection.md); ZClip (arXiv 2504.02507) clips at
// z 2.5 of the same statistic, which is a spike every few hundred rows.
//
// What it confuses: harder data, a rescaled loss and a restarted learning rate
// look the same in the loss alone (declare the phase); spikes that follow one
// another within Window are judged by the one before and may be missed; a loss
// that is not positive is not judged.
func Spike(set SpikeSettings) detect.Rule {
	return detect.Rule{
		Code:     "spike",
		Title:    "Loss spike",
		Severity: commonv1.Severity_SEVERITY_WARNING,
		Under:    []string{"divergence"},
		New:      func() detect.Detector { return &spike{rise: newRise(&set)} },
	}
}

type spike struct {
	lead detect.Lead
	rise rise
}

// Open tells whether a rise goes on.
func (d *spike) Open() bool { return d.rise.open }

// Observe takes the run's next event.
func (d *spike) Observe(event *commonv1.Event) []*controlv1.Finding {
	x, change := lossOf(&d.lead, event)
	switch change {
	case detect.Skip:
		return nil
	case detect.Restart:
		d.rise.rebase()
	}
	if math.IsNaN(x) {
		return nil
	}
	s := event.GetStep()
	if d.rise.open && d.rise.rows >= d.rise.set.Patience {
		d.rise.rebase()
	}
	if !d.rise.add(s.GetStep(), x) {
		return nil
	}
	f := detect.FindingOf(event, s.GetStep(), s.GetStep())
	ratio := math.Exp(x - d.rise.base)
	f.Summary = fmt.Sprintf("%s reports a loss of %.4g at step %d, %.2f times its level of %.4g.",
		who(event), s.GetLoss(), s.GetStep(), ratio, math.Exp(d.rise.base))
	f.Evidence = map[string]float64{
		"loss": s.GetLoss(), "level": math.Exp(d.rise.base), "ratio": ratio, "sigma_log": d.rise.sigma(),
	}
	return []*controlv1.Finding{f}
}

// lossOf gives the logarithm of a report's loss and what it means for the
// series that lead follows. A declared change is a restart without a value. A
// loss that is not finite or not positive has no logarithm: its value is NaN.
func lossOf(lead *detect.Lead, event *commonv1.Event) (float64, detect.Change) {
	if changes(event) {
		return math.NaN(), detect.Restart
	}
	s := event.GetStep()
	if s == nil || s.Loss == nil {
		return 0, detect.Skip
	}
	change := lead.Take(event, s.GetStep())
	return logOf(s.GetLoss()), change
}

// logOf is the logarithm of a finite positive value, else NaN.
func logOf(v float64) float64 {
	if !finite(v) || v <= 0 {
		return math.NaN()
	}
	return math.Log(v)
}
