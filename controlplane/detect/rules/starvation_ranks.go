package rules

import (
	"fmt"
	"math"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// hungryRank finds the ranks of a run that wait for data while the others do
// not. What the median rank waits is judged like a run of one rank, since a
// store that is slow for all makes no rank stand out.
type hungryRank struct {
	set     StarvationSettings
	steps   *detect.Lockstep[loading]
	peers   peers
	all     wait // the median rank
	excess  []float64
	scratch []float64
	found   []*controlv1.Finding
	event   *commonv1.Event // the one that is observed
}

// loading is how long a rank waited for data in a step, in seconds.
type loading struct{ data, step float32 }

func newHungryRank(set StarvationSettings) *hungryRank {
	d := &hungryRank{set: set, peers: peers{set: set.Ranks}}
	d.steps = detect.NewLockstep(d.judge)
	return d
}

func (d *hungryRank) open() bool { return d.peers.open > 0 || d.all.open > 0 }

// observe takes a report and tells whether the run has several ranks.
func (d *hungryRank) observe(event *commonv1.Event, step, data float64) ([]*controlv1.Finding, bool) {
	d.event, d.found = event, nil
	row := loading{float32(data), float32(step)}
	if d.steps.Put(event.GetAttempt(), event.GetRank(), event.GetNode(), event.GetStep().GetStep(), row) == detect.Restart {
		d.all = wait{}
		if d.steps.Ranks() < 2 {
			d.peers.clear()
		}
	}
	d.event = nil
	return d.found, d.steps.Ranks() > 1
}

func (d *hungryRank) clear() {
	d.steps.Clear()
	d.peers.clear()
	d.all = wait{}
}

func (d *hungryRank) median(j *detect.Joint[loading], value func(loading) float32) float64 {
	d.scratch = d.scratch[:0]
	for place, has := range j.Has {
		if has {
			d.scratch = append(d.scratch, float64(value(j.Rows[place])))
		}
	}
	return lowerMedian(d.scratch)
}

func (d *hungryRank) judge(j *detect.Joint[loading]) {
	if len(j.Rows) < 2 {
		return
	}
	data := d.median(j, func(l loading) float32 { return l.data })
	step := d.median(j, func(l loading) float32 { return l.step })
	for len(d.excess) < len(j.Rows) {
		d.excess = append(d.excess, 0)
	}
	for place, has := range j.Has {
		if d.excess[place] = math.NaN(); has {
			d.excess[place] = (float64(j.Rows[place].data) - data) / step
		}
	}
	if c, ok := d.peers.judge(j.Step, d.excess[:len(j.Rows)], d.steps.Node, func(int) bool { return true }); ok {
		d.found = append(d.found, d.finding(j.Step, c))
	}
	if share, usual, starves := d.all.take(d.set, j.Step, step, min(data, step)); starves && d.peers.open == 0 {
		f := detect.FindingOf(d.event, d.all.onset.Step(j.Step), j.Step)
		blame(f, d.steps, nil)
		f.Summary = fmt.Sprintf("All %d ranks wait for data: the median rank %.0f %% of the time at step %d, %.0f %% before.", d.steps.Ranks(), 100*share, j.Step, 100*usual)
		f.Evidence = map[string]float64{"data_share": share, "data_share_before": usual, "data_seconds": data, "step_seconds": step, "ranks": float64(d.steps.Ranks())}
		d.found = append(d.found, f)
	}
}

func (d *hungryRank) finding(step int64, c culprit) *controlv1.Finding {
	f := detect.FindingOf(d.event, c.onset, step)
	blame(f, d.steps, c.places)
	f.Evidence = map[string]float64{
		"data_share_more": c.mean, "slow_steps": float64(c.verdict.Slow), "steps": float64(c.rows),
		"score": c.verdict.Score, "ranks": float64(d.steps.Ranks()),
	}
	verb := "waits"
	if len(c.places) > 1 && !c.whole {
		verb = "wait"
	}
	f.Summary = fmt.Sprintf("%s %s for data while the median of %d ranks does not: %.0f %% of a step more, long on %d of %d steps since step %d.",
		whoOf(f, c.whole), verb, d.steps.Ranks(), 100*c.mean, c.verdict.Slow, c.rows, c.onset)
	return f
}
