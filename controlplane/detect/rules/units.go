package rules

import (
	"fmt"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// maxLayers is how many layers of a run are followed.
const maxLayers = 512

// UnitSettings says when too many of a layer's units are of no use.
type UnitSettings struct {
	// Share is the share of a layer's units, 0 to 1, that must be so.
	Share float64 `yaml:"share"`
	// Rows is the number of reports of the layer in a row that must say so.
	Rows int `yaml:"rows"`
}

func defaultDeadUnits() UnitSettings { return UnitSettings{Share: 0.8, Rows: 8} }
func defaultSaturated() UnitSettings { return UnitSettings{Share: 0.9, Rows: 8} }

// DeadUnits finds a layer most of whose units are zero for whole batches.
//
// Method: the layer's share of units that were zero for every sample of the
// batch, as the trainer reports it, is over Share in Rows reports in a row. One
// unit that is dead for a batch may live in the next; a layer of which four in
// five are dead for eight does not learn (dying ReLU: Lu et al., Dying ReLU and
// Initialization, 2019).
//
// What it confuses: layers that are sparse by design (mixtures of experts, very
// small batches). It sees only layers that trainers report.
func DeadUnits(set UnitSettings) detect.Rule {
	return unitRule(set, "dead_units", "A layer's units are dead", "dead for the whole batch",
		(*commonv1.StepReport).GetDeadRatios)
}

// Saturated finds a layer most of whose units are at their bound, where their
// gradient is zero.
//
// Method and confusions are those of [DeadUnits], with the share at the bound
// (X. Glorot, Y. Bengio, Understanding the difficulty of training deep
// feedforward neural networks, 2010). Gates that are meant to be open or closed
// look the same.
func Saturated(set UnitSettings) detect.Rule {
	return unitRule(set, "saturated", "A layer's units are saturated", "at their bound",
		(*commonv1.StepReport).GetSaturatedRatios)
}

func unitRule(set UnitSettings, code, title, what string, shares func(*commonv1.StepReport) map[string]float64) detect.Rule {
	return detect.Rule{
		Code: code, Title: title, Severity: commonv1.Severity_SEVERITY_WARNING, Under: []string{"nonfinite"},
		New: func() detect.Detector {
			return &units{set: set, what: what, shares: shares, layers: map[string]*layerState{}}
		},
	}
}

type units struct {
	set    UnitSettings
	what   string
	shares func(*commonv1.StepReport) map[string]float64
	lead   detect.Lead
	layers map[string]*layerState
	bad    int // layers that were found
}

// layerState is how long a layer has been bad.
type layerState struct {
	rows  int   // reports in a row
	onset int64 // the first of them
	found bool
}

// Open tells whether a layer that was found is still bad.
func (d *units) Open() bool { return d.bad > 0 }

// Observe takes the run's next event.
func (d *units) Observe(event *commonv1.Event) []*controlv1.Finding {
	s := event.GetStep()
	shares := d.shares(s)
	if len(shares) == 0 || d.lead.Take(event, s.GetStep()) == detect.Skip {
		return nil
	}
	worst, begins := "", false
	for name, share := range shares { // in any order: of equals the first by name is named
		if !d.layer(name, share, s.GetStep()) {
			continue
		}
		begins = true
		if worst == "" || share > shares[worst] || (share == shares[worst] && name < worst) {
			worst = name
		}
	}
	if !begins {
		return nil
	}
	f := detect.FindingOf(event, d.layers[worst].onset, s.GetStep())
	f.Layer = worst
	f.Summary = fmt.Sprintf("Of layer %s %.0f %% of the units are %s, since step %d.", worst, 100*shares[worst], d.what, f.OnsetStep)
	if d.bad > 1 {
		f.Summary += fmt.Sprintf(" So are those of %d other layers.", d.bad-1)
	}
	f.Evidence = map[string]float64{"share": shares[worst], "layers": float64(d.bad), "layers_seen": float64(len(d.layers))}
	return []*controlv1.Finding{f}
}

// layer takes a layer's share and tells whether it has now become bad.
func (d *units) layer(name string, share float64, step int64) bool {
	state := d.layers[name]
	if state == nil {
		if len(d.layers) >= maxLayers {
			return false
		}
		state = &layerState{}
		d.layers[name] = state
	}
	if !(share > d.set.Share) {
		if state.found {
			d.bad--
		}
		*state = layerState{}
		return false
	}
	if state.rows++; state.rows == 1 {
		state.onset = step
	}
	if state.found || state.rows < d.set.Rows {
		return false
	}
	state.found = true
	d.bad++
	return true
}
