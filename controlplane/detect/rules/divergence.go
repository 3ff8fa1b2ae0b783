package rules

import (
	"fmt"
	"math"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// DivergenceSettings says when a loss that rose is lost.
type DivergenceSettings struct {
	// Rise is what a rise is that might become a divergence.
	Rise SpikeSettings `yaml:"rise"`
	// BlowUp is how many times its level before a loss must reach to be lost
	// at once, BlowUpRows points at it each above the one before.
	BlowUp     float64 `yaml:"blow_up"`
	BlowUpRows int     `yaml:"blow_up_rows"`
	// High is how many times its level before a loss must keep, near its peak
	// (within a factor of Near), for HighRows.
	High     float64 `yaml:"high"`
	Near     float64 `yaml:"near"`
	HighRows int     `yaml:"high_rows"`
	// Rows is after how many rows a loss that is not on its way back is lost,
	// LongRows after how many any is that has not come back.
	Rows     int `yaml:"rows"`
	LongRows int `yaml:"long_rows"`
	// Drift is how many times its best the smoothed loss must exceed, for DriftRows.
	// DriftSigmas is the same in sigmas of the loss, WanderSigmas in sigmas of
	// the smoothed loss, whose course wanders.
	Drift        float64 `yaml:"drift"`
	DriftSigmas  float64 `yaml:"drift_sigmas"`
	WanderSigmas float64 `yaml:"wander_sigmas"`
	DriftRows    int     `yaml:"drift_rows"`
	// DriftShare is the share of the run so far that it must last: the longer a
	// loss has been falling, the longer it wanders.
	DriftShare float64 `yaml:"drift_share"`
	// Creep is the same for a small rise, which must last for CreepRows and for
	// CreepShare of the run so far.
	Creep      float64 `yaml:"creep"`
	CreepRows  int     `yaml:"creep_rows"`
	CreepShare float64 `yaml:"creep_share"`
	// Window is the number of rows whose median is the smoothed loss.
	Window int `yaml:"window"`
	// Falling is by what factor that median must be below its own mean of late
	// for the loss to be on its way down.
	Falling float64 `yaml:"falling"`
	// Patience is the number of rows after which a lost loss is the new level.
	Patience int `yaml:"patience"`
}

func defaultDivergence() DivergenceSettings {
	return DivergenceSettings{
		Rise:   defaultSpike(),
		BlowUp: 6, BlowUpRows: 3, High: 3, Near: 1.5, HighRows: 8, Rows: 40, LongRows: 100,
		Drift: 1.35, DriftSigmas: 1, WanderSigmas: 5, DriftRows: 40, DriftShare: 0.03125, Creep: 1.05, CreepRows: 64, CreepShare: 0.125, Window: 32, Falling: 1.05, Patience: 500,
	}
}

// Divergence finds a loss that left its course and does not come back.
//
// Method: it starts as a spike does (the same code, see [Spike]), with the
// level before it frozen. The rise is critical once BlowUpRows points pass
// BlowUp times that level, each above the one before; or it keeps High times
// that level near its peak for HighRows; or it ends in a value that is not
// finite. One that has not come back in LongRows, or in Rows while it is still
// above half of its peak, and a median of the last Window rows that stays above
// its best without falling, by Drift for DriftRows or by Creep for longer, are
// critical at High times the level and a warning below: such a rise may be
// meant. A warning that blows up
// later is said again, as critical.
//
// What it confuses: a rescaled loss, a curriculum that gets harder and a new
// source of data are warnings at best, unless the trainer declares them; from
// the loss alone they are divergences. It needs some 40 rows where the rise
// does not speak for itself, since that is how long recoverable spikes last. A
// loss that is not positive is not judged.
func Divergence(set DivergenceSettings) detect.Rule {
	return detect.Rule{
		Code:     "divergence",
		Title:    "Loss diverges",
		Severity: commonv1.Severity_SEVERITY_CRITICAL,
		New: func() detect.Detector {
			return &divergence{set: &set, rise: newRise(&set.Rise), recent: detect.NewWindow(max(1, set.Window)), best: math.Inf(1)}
		},
	}
}

// sigmaOfRise is the standard deviation of values of a normal distribution
// whose mean rise from one to the next, a fall counting as 0, is 1: sqrt(pi).
const sigmaOfRise = 1.772453850905516

// wanderMemory is the number of windows over which that rise is averaged.
const wanderMemory = 16

type divergence struct {
	set  *DivergenceSettings // the rule's, which its runs share
	lead detect.Lead
	rise rise

	rising int     // points at BlowUp, each above the one before
	high   int     // rows in a row at High and near the peak
	mean   float64 // of what is above the base since the rise began, recent rows more

	recent         *detect.Window
	trend          float64      // exponentially weighted mean of the window's median
	best           float64      // least median
	rows           int          // that the median was followed
	drift, creep   stretch      // at Drift and at Creep above best
	windows        int          // that did not overlap
	before, wander float64      // median of the last of them; mean rise from one to the next
	onset          detect.Onset // of what is at Creep

	mild bool // it was found as a warning
	lost int  // rows since it was found; 0 when it was not
}

// Open tells whether the loss is lost.
func (d *divergence) Open() bool { return d.lost > 0 }

// Observe takes the run's next event.
func (d *divergence) Observe(event *commonv1.Event) []*controlv1.Finding {
	x, change := lossOf(&d.lead, event)
	switch change {
	case detect.Skip:
		return nil
	case detect.Restart:
		d.restart()
	}
	if math.IsNaN(x) {
		return d.breaks(event)
	}
	step := event.GetStep().GetStep()
	before, began := d.rise.last, d.rise.add(step, x)
	d.drifts(step, x)
	if began {
		d.rising, d.high, d.mean = 0, 0, x-d.rise.base
	}
	blown, why := d.judge(x, before, began)
	onset, base := d.rise.onset, d.rise.base
	switch {
	case d.lost > 0 && blown && d.mild:
		d.mild, onset = false, step // what was a warning has become worse
	case d.lost > 0:
		d.recover()
		return nil
	case why == "" && d.drifted(step):
		why, onset, base = "has drifted up", d.onset.Step(step), d.best
	}
	if why == "" {
		return nil
	}
	d.lost++
	d.mild = !blown && d.recent.Len() > 0 && d.recent.Median()-base < math.Log(d.set.High)
	return d.finding(event, onset, base, why)
}

// judge says why a rise is a divergence, empty while it is not, and whether it
// is beyond doubt.
func (d *divergence) judge(x, before float64, began bool) (blown bool, why string) {
	if !d.rise.open {
		return false, ""
	}
	excess := x - d.rise.base
	d.mean += (excess - d.mean) / 8
	if excess >= math.Log(d.set.BlowUp) && (began || x > before) {
		d.rising++
	}
	if excess >= math.Log(d.set.High) && x >= d.rise.peak-math.Log(d.set.Near) {
		d.high++
	} else {
		d.high = 0
	}
	switch {
	case d.rising >= d.set.BlowUpRows:
		return true, "blows up"
	case d.high >= d.set.HighRows:
		return true, "stays high"
	case d.rise.rows >= d.set.LongRows,
		d.rise.rows >= d.set.Rows && d.mean > (d.rise.peak-d.rise.base)/2:
		return false, "has not come back"
	}
	return false, ""
}

// breaks takes a loss that is not finite: a loss that had risen and now is no
// number will not come back.
func (d *divergence) breaks(event *commonv1.Event) []*controlv1.Finding {
	s := event.GetStep()
	if !d.rise.open || d.lost > 0 || s == nil || finite(s.GetLoss()) {
		return nil
	}
	d.lost = 1
	return d.finding(event, d.rise.onset, d.rise.base, "")
}

// drifts follows the median of the recent losses and its best. A loss that is
// on its way down again does not drift.
func (d *divergence) drifts(step int64, x float64) {
	d.recent.Add(x)
	if !d.recent.Full() {
		return
	}
	median := d.recent.Median()
	if math.IsInf(d.best, 1) {
		d.trend = median
	}
	d.trend += (median - d.trend) / float64(d.set.Window)
	d.best = min(d.best, median)
	d.rows++
	d.learn(median)
	above := median - d.best
	if above <= max(d.set.DriftSigmas*d.rise.level.Sigma(), d.set.WanderSigmas*d.wander*sigmaOfRise) || median < d.trend-math.Log(d.set.Falling) {
		above = 0
	}
	d.onset.Mark(step, above > math.Log(d.set.Creep))
	d.drift.mark(step, above > math.Log(d.set.Drift))
	d.creep.mark(step, above > math.Log(d.set.Creep))
}

// learn follows by how much the median rises from window to window. Windows
// that overlap say nothing of that, and what is being judged must not count.
func (d *divergence) learn(median float64) {
	if d.rows%d.set.Window != 1 || d.creep.rows > 0 {
		return
	}
	if d.windows > 0 {
		d.wander += (max(0, median-d.before) - d.wander) / min(float64(d.windows), wanderMemory)
	}
	d.before = median
	d.windows++
}

// drifted tells whether the median has been above its best for long enough.
func (d *divergence) drifted(step int64) bool {
	return d.drift.lasted(step, d.set.DriftRows, d.set.DriftShare) || d.creep.lasted(step, d.set.CreepRows, d.set.CreepShare)
}

// stretch is rows in a row.
type stretch struct {
	rows int
	from int64 // step of the first
}

func (s *stretch) mark(step int64, more bool) {
	switch {
	case !more:
		s.rows = 0
	case s.rows == 0:
		s.rows, s.from = 1, step
	default:
		s.rows++
	}
}

// lasted tells whether the stretch has so many rows and so great a share of
// the run's steps, of which those before a restart are a part.
func (s *stretch) lasted(step int64, rows int, share float64) bool {
	return s.rows >= rows && float64(step-s.from) >= share*float64(step)
}

// recover ends a divergence: the loss is back, or has stayed so long that it
// is the new level.
func (d *divergence) recover() {
	d.lost++
	if (!d.rise.open && d.creep.rows == 0) || d.lost > d.set.Patience {
		d.restart()
	}
}

func (d *divergence) restart() {
	d.rise.rebase()
	d.recent.Clear()
	d.best, d.rows, d.lost, d.mild = math.Inf(1), 0, 0, false
	d.drift, d.creep = stretch{}, stretch{}
	d.windows, d.before, d.wander, d.onset = 0, 0, 0, detect.Onset{}
}

func (d *divergence) finding(event *commonv1.Event, onset int64, base float64, why string) []*controlv1.Finding {
	s := event.GetStep()
	f := detect.FindingOf(event, onset, s.GetStep())
	if !finite(s.GetLoss()) {
		f.Summary = fmt.Sprintf("%s reports a loss that rose at step %d from %.4g and is %v at step %d.",
			who(event), onset, math.Exp(base), s.GetLoss(), s.GetStep())
		f.Evidence = map[string]float64{"level_before": math.Exp(base), "peak": math.Exp(d.rise.peak), "loss_nonfinite": 1}
		return []*controlv1.Finding{f}
	}
	if d.mild {
		f.Severity = commonv1.Severity_SEVERITY_WARNING
	}
	ratio := s.GetLoss() / math.Exp(base)
	f.Summary = fmt.Sprintf("%s reports a loss that rose at step %d and %s: %.4g at step %d, %.2f times the %.4g before.",
		who(event), onset, why, s.GetLoss(), s.GetStep(), ratio, math.Exp(base))
	f.Evidence = map[string]float64{
		"loss": s.GetLoss(), "level_before": math.Exp(base), "ratio": ratio, "rows_since_onset": float64(max(d.rise.rows, d.creep.rows)),
	}
	return []*controlv1.Finding{f}
}
