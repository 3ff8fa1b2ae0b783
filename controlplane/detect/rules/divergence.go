package rules

import (
	"fmt"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const (
	// span is how many losses make a mean.
	span = 5
	// riseFactor is by how much the later mean must exceed the earlier.
	riseFactor = 2.0
)

// Divergence finds a loss that left its course and did not come back: the mean
// of the last 5 losses is over twice the mean of the 5 before, and the mean of
// the next 5 still is. A loss that comes back in that time was a spike and
// shows nothing. The onset is the first step of the rise.
//
// It reads the lowest rank that reports losses, which is rank 0 but where a
// pipeline's last stage alone has a loss. Non-finite losses are left to the
// rule NonFinite. A step that goes back, as after a rollback, and a new
// attempt start it anew.
//
// What it confuses and misses, with figures from 110 recorded runs (13
// divergences, 33 spikes, 45,170 healthy steps):
//   - A spike that lasts more than some 8 steps is a divergence to it: 24 % of
//     the spikes (33 % without the hold-down).
//   - It alarms falsely 2.4 times in 10,000 healthy steps, in 9 % of healthy
//     runs (8.6 times and 13 % without the hold-down): where batches are tiny
//     and the loss near its floor of 0, which doubles without meaning anything,
//     and where the data gets harder or the loss is rescaled by intent.
//   - It names 7 of the 13 divergences, 22 steps after the onset in the median.
//     Three turn non-finite within the hold-down, which the rule NonFinite
//     finds; three rise by less than a doubling in 5 steps and are not seen.
//   - Losses that are not positive have no ratio: a window with one is not
//     judged.
func Divergence() detect.Rule {
	return detect.Rule{
		Code:     "divergence",
		Title:    "Loss diverges",
		Severity: commonv1.Severity_SEVERITY_CRITICAL,
		New:      func() detect.Detector { return &divergence{losses: detect.NewWindow(2 * span)} },
	}
}

// phase is how far a rise has come.
type phase uint8

const (
	calm   phase = iota // on course
	rising              // twice as high as before; waits whether it stays
	lost                // found; waits for the loss to come back
)

type divergence struct {
	attempt uint32
	rank    uint32 // whose losses these are
	begun   bool   // rank is known
	losses  *detect.Window
	phase   phase
	base    float64 // the mean before the rise
	onset   int64
	left    int // losses until the rise is judged
}

// Observe takes the run's next event.
func (d *divergence) Observe(event *commonv1.Event) []*controlv1.Finding {
	s := event.GetStep()
	if s == nil || s.Loss == nil || !finite(s.GetLoss()) || !d.follow(event, s.GetStep()) {
		return nil
	}
	d.losses.Add(s.GetStep(), s.GetLoss())
	switch d.phase {
	case calm:
		d.watch()
	case rising:
		if d.left--; d.left == 0 {
			return d.judge(event, s)
		}
	case lost:
		if d.recent() <= riseFactor*d.base {
			d.restart()
		}
	}
	return nil
}

// follow tells whether the event is the next step of the series that is
// watched.
func (d *divergence) follow(event *commonv1.Event, step int64) bool {
	switch {
	case !d.begun || event.GetAttempt() > d.attempt:
		d.attempt, d.rank, d.begun = event.GetAttempt(), event.GetRank(), true
		d.restart()
	case event.GetAttempt() < d.attempt || event.GetRank() > d.rank:
		return false
	case event.GetRank() < d.rank:
		d.rank = event.GetRank()
		d.restart()
	case d.losses.Len() > 0 && step <= d.losses.At(d.losses.Len()-1).Step:
		d.restart()
	}
	return true
}

func (d *divergence) restart() {
	d.losses.Clear()
	d.phase = calm
}

// recent is the mean of the last span losses.
func (d *divergence) recent() float64 {
	n := d.losses.Len()
	return d.losses.Mean(n-span, n)
}

// watch looks for a rise.
func (d *divergence) watch() {
	if !d.losses.Full() {
		return
	}
	for i := range 2 * span {
		if d.losses.At(i).Value <= 0 {
			return
		}
	}
	if base := d.losses.Mean(0, span); d.recent() > riseFactor*base {
		d.phase, d.base, d.onset, d.left = rising, base, d.riseStep(base), span
	}
}

// riseStep is the first of the recent steps whose loss is above all before
// them, or, when none is, above their mean.
func (d *divergence) riseStep(base float64) int64 {
	top := base
	for i := range span {
		top = max(top, d.losses.At(i).Value)
	}
	for _, limit := range []float64{top, base} {
		for i := span; i < 2*span; i++ {
			if p := d.losses.At(i); p.Value > limit {
				return p.Step
			}
		}
	}
	return d.losses.At(span).Step
}

// judge tells a divergence from a spike, span losses after the rise was seen.
func (d *divergence) judge(event *commonv1.Event, s *commonv1.StepReport) []*controlv1.Finding {
	after := d.recent()
	if after <= riseFactor*d.base || s.GetLoss() <= riseFactor*d.base {
		d.restart()
		return nil
	}
	d.phase = lost
	f := detect.FindingOf(event, d.onset, s.GetStep())
	f.Summary = fmt.Sprintf("%s reports a loss that rose at step %d and has not come back at step %d: %.4g on average, %.4g before.",
		who(event), d.onset, s.GetStep(), after, d.base)
	f.Evidence = map[string]float64{
		"loss":        s.GetLoss(),
		"mean_before": d.base,
		"mean_after":  after,
		"ratio":       after / d.base,
	}
	return []*controlv1.Finding{f}
}
