package rules

import (
	"fmt"
	"math"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// blocks is how many blocks a plateau is looked for in; the older half is
// compared with the newer.
const blocks = 16

// PlateauSettings says when a loss has stopped falling.
type PlateauSettings struct {
	// Block is the number of rows in a block at first; it doubles with the run.
	Block int `yaml:"block"`
	// Drop is the least share by which the loss must fall from half to half.
	Drop float64 `yaml:"drop"`
	// Hidden is the share that the scatter must not be able to hide.
	Hidden float64 `yaml:"hidden"`
	// Sigmas is how many standard errors the scatter may hide.
	Sigmas float64 `yaml:"sigmas"`
	// Confirm is the number of blocks in a row after which the loss must look so.
	Confirm int `yaml:"confirm"`
}

func defaultPlateau() PlateauSettings {
	return PlateauSettings{Block: 32, Drop: 0.005, Hidden: 0.04, Sigmas: 1.2, Confirm: 3}
}

// Plateau finds, once, a loss that has stopped falling.
//
// Method: means of the logarithm over blocks of Block rows. When 16 blocks are
// full they become 8 of twice the size, so that a longer run is judged by a
// longer stretch. The last 4 blocks are compared with the 4 before: the loss is
// flat when it fell by less than Drop, and the standard error of the difference
// (from the scatter of the blocks) could not hide a fall of Hidden at Sigmas.
// It must look so after Confirm blocks in a row.
//
// What it confuses: a run that has converged looks like one that is stuck, and
// one whose learning rate still warms up may: hence a warning, and once.
func Plateau(set PlateauSettings) detect.Rule {
	return detect.Rule{
		Code:     "plateau",
		Title:    "Loss stopped falling",
		Severity: commonv1.Severity_SEVERITY_WARNING,
		Under:    []string{"divergence", "nonfinite", "vanishing"},
		New:      func() detect.Detector { return &plateau{set: set, size: max(1, set.Block)} },
	}
}

type plateau struct {
	set   PlateauSettings
	lead  detect.Lead
	size  int             // rows in a block
	means [blocks]float64 // of the logarithm
	steps [blocks]int64   // at which each block began
	n     int             // full blocks
	sum   float64         // of the block that fills
	rows  int             // in it
	begin int64
	flat  int // times in a row that the loss was judged flat
	found bool
}

// Open is never so: a plateau is said once and explains nothing.
func (d *plateau) Open() bool { return false }

// Observe takes the run's next event.
func (d *plateau) Observe(event *commonv1.Event) []*controlv1.Finding {
	x, change := lossOf(&d.lead, event)
	switch change {
	case detect.Skip:
		return nil
	case detect.Restart:
		*d = plateau{set: d.set, lead: d.lead, size: max(1, d.set.Block), found: d.found}
	}
	if math.IsNaN(x) || d.found {
		return nil
	}
	step := event.GetStep().GetStep()
	if d.rows == 0 {
		d.begin = step
	}
	d.sum += x
	if d.rows++; d.rows < d.size {
		return nil
	}
	d.push()
	if d.n < blocks/2 {
		return nil
	}
	return d.judge(event)
}

// push adds the block that is full. When there is no more room, two blocks
// become one.
func (d *plateau) push() {
	d.means[d.n], d.steps[d.n] = d.sum/float64(d.rows), d.begin
	d.n++
	d.sum, d.rows = 0, 0
	if d.n < blocks {
		return
	}
	for i := range blocks / 2 {
		d.means[i], d.steps[i] = (d.means[2*i]+d.means[2*i+1])/2, d.steps[2*i]
	}
	d.n, d.size = blocks/2, 2*d.size
}

// judge compares the last blocks with as many before them.
func (d *plateau) judge(event *commonv1.Event) []*controlv1.Finding {
	const half = blocks / 4
	old, recent := d.means[d.n-2*half:d.n-half], d.means[d.n-half:d.n]
	oldMean, oldVar := moments(old)
	newMean, newVar := moments(recent)
	drop := oldMean - newMean
	margin := d.set.Sigmas * math.Sqrt((oldVar+newVar)/half)
	if drop >= d.set.Drop || drop+margin >= d.set.Hidden {
		d.flat = 0
		return nil
	}
	if d.flat++; d.flat < d.set.Confirm {
		return nil
	}
	d.found = true
	onset, s := d.steps[d.n-2*half], event.GetStep()
	f := detect.FindingOf(event, onset, s.GetStep())
	f.Summary = fmt.Sprintf("%s reports a loss that has not fallen since step %d: %.4g on average, %.4g before.",
		who(event), onset, math.Exp(newMean), math.Exp(oldMean))
	f.Evidence = map[string]float64{
		"loss_before": math.Exp(oldMean), "loss_now": math.Exp(newMean), "drop_log": drop, "margin_log": margin,
		"rows": float64(2 * half * d.size),
	}
	return []*controlv1.Finding{f}
}

// moments gives mean and sample variance of at least two values.
func moments(values []float64) (mean, variance float64) {
	for _, v := range values {
		mean += v
	}
	mean /= float64(len(values))
	for _, v := range values {
		variance += (v - mean) * (v - mean)
	}
	return mean, variance / float64(len(values)-1)
}
