package rules

import (
	"fmt"
	"math"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// slowRank finds the ranks of a run that compute longer than the others at the
// same step.
type slowRank struct {
	steps   *detect.Lockstep[work]
	peers   peers
	gate    []float32 // how much less than the median rank each communicates, in shares of a step
	excess  []float64
	scratch []float64
	found   []*controlv1.Finding
	event   *commonv1.Event // the one that is observed
}

// work is where a rank's step went, in seconds; NaN where it is not known.
type work struct{ compute, communicate, step float32 }

func newSlowRank(set detect.ExcessSettings) *slowRank {
	d := &slowRank{peers: peers{set: set}}
	d.steps = detect.NewLockstep(d.judge)
	return d
}

// observe takes a report and tells whether the run's ranks can be compared.
func (d *slowRank) observe(event *commonv1.Event) ([]*controlv1.Finding, bool) {
	w := workOfRank(event.GetStep())
	if math.IsNaN(float64(w.compute)) {
		return nil, false
	}
	d.event, d.found = event, nil
	before := d.steps.Ranks()
	if d.steps.Put(event.GetAttempt(), event.GetRank(), event.GetNode(), event.GetStep().GetStep(), w) == detect.Restart && d.steps.Ranks() < max(2, before) {
		d.restart()
	}
	d.event = nil
	return d.found, d.steps.Ranks() > 1
}

func (d *slowRank) restart() {
	d.peers.clear()
	clear(d.gate)
}

// workOfRank is what a rank itself does in a step: its computing where that is
// known, else the step without the waiting for data and for the others.
func workOfRank(s *commonv1.StepReport) work {
	unknown := float32(math.NaN())
	w := work{unknown, unknown, unknown}
	if s.CommunicationSeconds != nil && finite(s.GetCommunicationSeconds()) {
		w.communicate = float32(s.GetCommunicationSeconds())
	}
	if s.StepSeconds != nil && finite(s.GetStepSeconds()) {
		w.step = float32(s.GetStepSeconds())
	}
	switch {
	case s.ComputeSeconds != nil && finite(s.GetComputeSeconds()) && s.GetComputeSeconds() > 0:
		w.compute = float32(s.GetComputeSeconds())
	case s.ComputeSeconds == nil && w.step == w.step && w.communicate == w.communicate:
		if own := s.GetStepSeconds() - s.GetCommunicationSeconds() - s.GetDataSeconds(); own > 0 {
			w.compute = float32(own)
		}
	}
	return w
}

func (d *slowRank) judge(j *detect.Joint[work]) {
	if len(j.Rows) < 2 {
		return
	}
	of := func(value func(work) float32, median func([]float64) float64) float64 {
		d.scratch = d.scratch[:0]
		for place, has := range j.Has {
			if has {
				d.scratch = append(d.scratch, float64(value(j.Rows[place])))
			}
		}
		return median(d.scratch)
	}
	compute := of(func(w work) float32 { return w.compute }, lowerMedian)
	communicate := of(func(w work) float32 { return w.communicate }, upperMedian)
	step := of(func(w work) float32 { return w.step }, upperMedian)
	for len(d.gate) < len(j.Rows) {
		d.gate, d.excess = append(d.gate, 0), append(d.excess, 0)
	}
	for place, has := range j.Has {
		if d.excess[place] = math.NaN(); !has {
			continue
		}
		w := j.Rows[place]
		d.excess[place] = math.Log(float64(w.compute) / compute)
		if less := (communicate - float64(w.communicate)) / step; finite(less) {
			d.gate[place] += (float32(less) - d.gate[place]) / 16
		}
	}
	// The others wait for the culprit: it does not wait for them.
	c, ok := d.peers.judge(j.Step, d.excess[:len(j.Rows)], d.steps.Node, func(place int) bool { return d.gate[place] >= 0 })
	if ok {
		d.found = append(d.found, d.finding(j.Step, c))
	}
}

func (d *slowRank) finding(step int64, c culprit) *controlv1.Finding {
	f := detect.FindingOf(d.event, c.onset, step)
	blame(f, d.steps, c.places)
	ratio := math.Exp(c.mean)
	f.Evidence = map[string]float64{
		"ratio": ratio, "slow_steps": float64(c.verdict.Slow), "steps": float64(c.rows), "score": c.verdict.Score,
		"ranks": float64(d.steps.Ranks()), "communication_share_less": float64(d.gate[c.places[0]]),
	}
	who, verb := whoOf(f, c.whole), "computes"
	if len(c.places) > 1 && !c.whole {
		verb = "compute"
	}
	f.Summary = fmt.Sprintf("%s %s %.2f times as long on a step as the median of %d ranks since step %d, and the others wait.", who, verb, ratio, d.steps.Ranks(), c.onset)
	if 2*c.verdict.Slow < c.rows && ratio < 1.3 {
		f.Summary = fmt.Sprintf("%s %s far longer than the median of %d ranks on %d of %d steps since step %d, and the others wait.",
			who, verb, d.steps.Ranks(), c.verdict.Slow, c.rows, c.onset)
	}
	return f
}

// whoOf begins a sentence with the ranks and the node that a finding blames.
func whoOf(f *controlv1.Finding, node bool) string {
	ranks := f.GetRanks()
	switch {
	case len(ranks) == 0 && f.GetNode() == "":
		return fmt.Sprintf("Rank %d", f.GetRank())
	case len(ranks) == 0:
		return fmt.Sprintf("Rank %d on node %s", f.GetRank(), f.GetNode())
	case node:
		return fmt.Sprintf("Node %s with its ranks %s", f.GetNode(), listed(ranks))
	case f.GetNode() != "":
		return fmt.Sprintf("Ranks %s on node %s", listed(ranks), f.GetNode())
	}
	return "Ranks " + listed(ranks)
}

// listed writes ranks as a person would: "3, 4 and 7", "96 to 103".
func listed(ranks []uint32) string {
	n := len(ranks)
	if n > 2 && int(ranks[n-1]-ranks[0]) == n-1 {
		return fmt.Sprintf("%d to %d", ranks[0], ranks[n-1])
	}
	const most = 8
	text := ""
	for i, rank := range ranks {
		switch {
		case i == most:
			return fmt.Sprintf("%s and %d more", text, n-most)
		case i == 0:
		case i == n-1:
			text += " and "
		default:
			text += ", "
		}
		text += fmt.Sprint(rank)
	}
	return text
}
