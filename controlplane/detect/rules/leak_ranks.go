package rules

import (
	"fmt"
	"math"
	"slices"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// leakyRank finds the ranks of a run whose memory grows away from that of the
// others. What all ranks do alike is judged in the median rank.
type leakyRank struct {
	set     LeakSettings
	steps   *detect.Lockstep[held]
	each    []relative
	all     relative // the median rank
	some    bool     // a rank leaks, or all: it is asked for with every event
	base    [2]float64
	pace    float64 // time of a step of late, in seconds
	paces   [2][increments + 1]float64
	scratch []float64
	found   []*controlv1.Finding
	event   *commonv1.Event // the one that is observed
}

// held is what a rank holds, in bytes, and how long its step took, in seconds;
// NaN where it is not known.
type held struct{ bytes, gpu, step float64 }

// relative is the memory of one rank less that of the median rank, on top of
// what that was at first, so that what matters is still a share of the whole.
type relative struct {
	of   [2]memory
	open bool
}

func newLeakyRank(set LeakSettings) *leakyRank {
	d := &leakyRank{set: set}
	d.steps = detect.NewLockstep(d.judge)
	return d
}

func (d *leakyRank) clear() {
	d.each, d.all, d.base, d.paces = d.each[:0], relative{}, [2]float64{}, [2][increments + 1]float64{}
	d.pace, d.some = 0, false
}

func (d *leakyRank) open() bool { return d.some }

// observe takes a report and tells whether the run has several ranks.
func (d *leakyRank) observe(event *commonv1.Event) ([]*controlv1.Finding, bool) {
	s := event.GetStep()
	row := held{math.NaN(), math.NaN(), math.NaN()}
	if s.ResidentBytes != nil {
		row.bytes = float64(s.GetResidentBytes())
	}
	if s.GpuMemoryBytes != nil {
		row.gpu = float64(s.GetGpuMemoryBytes())
	}
	if s.StepSeconds != nil && finite(s.GetStepSeconds()) {
		row.step = s.GetStepSeconds()
	}
	d.event, d.found = event, nil
	if d.steps.Put(event.GetAttempt(), event.GetRank(), event.GetNode(), s.GetStep(), row) == detect.Restart {
		d.clear()
	}
	d.event = nil
	return d.found, d.steps.Ranks() > 1
}

func (d *leakyRank) median(j *detect.Joint[held], value func(held) float64) float64 {
	d.scratch = d.scratch[:0]
	for place, has := range j.Has {
		if has {
			d.scratch = append(d.scratch, value(j.Rows[place]))
		}
	}
	return lowerMedian(d.scratch)
}

func (d *leakyRank) judge(j *detect.Joint[held]) {
	if len(j.Rows) < 2 {
		return
	}
	for len(d.each) < len(j.Rows) {
		d.each = append(d.each, relative{})
	}
	if step := d.median(j, func(h held) float64 { return h.step }); finite(step) {
		if d.pace == 0 {
			d.pace = step
		}
		d.pace += (min(step, 3*d.pace) - d.pace) / float64(d.set.Block) // a checkpoint is one long step
	}
	for which, value := range [2]func(held) float64{func(h held) float64 { return h.bytes }, func(h held) float64 { return h.gpu }} {
		median := d.median(j, value)
		if !finite(median) || median <= 0 {
			continue
		}
		if d.base[which] == 0 {
			d.base[which] = median
		}
		d.compare(j, which, median, value)
		d.together(j, which, median)
	}
}

// compare looks for ranks that grow away from the median.
func (d *leakyRank) compare(j *detect.Joint[held], which int, median float64, value func(held) float64) {
	set, t := d.set, seconds(d.event)
	set.Block = d.set.RankBlock
	var places []int
	for place, has := range j.Has {
		bytes := value(j.Rows[place])
		if !has || !finite(bytes) {
			continue
		}
		rank := &d.each[place]
		if rank.of[which].add(set, set.RankStraight, j.Step, t, bytes-median+d.base[which]) && !rank.open {
			places = append(places, place)
		}
	}
	places = slices.DeleteFunc(places, d.joins)
	for _, place := range places {
		d.each[place].open, d.some = true, true
	}
	if len(places) == 0 {
		return
	}
	f := leakFinding(set, d.event, &d.each[places[0]].of[which], j.Step)
	blame(f, d.steps, places)
	f.Summary = leakSentence(f, whoOf(f, false), leakKind(which)+" against the median rank")
	d.found = append(d.found, f)
}

// joins tells whether another rank of this one's node was found before: what
// they do alike is one leak.
func (d *leakyRank) joins(place int) bool {
	node := d.steps.Node(place)
	for other := range d.each {
		if node != "" && d.each[other].open && d.steps.Node(other) == node {
			d.each[place].open = true
			return true
		}
	}
	return false
}

// together looks for a leak of all ranks alike. Memory that grows as steps take
// longer is that of longer sequences or larger batches.
func (d *leakyRank) together(j *detect.Joint[held], which int, median float64) {
	m, paces := &d.all.of[which], &d.paces[which]
	if m.rows+1 == d.set.Block {
		if m.n == len(paces) {
			copy(paces[:], paces[1:])
		}
		paces[min(m.n, increments)] = d.pace
	}
	leaks := m.add(d.set, 0, j.Step, seconds(d.event), median)
	if !leaks || d.open() || paces[m.n-1] > d.set.Slower*paces[0] {
		return
	}
	d.all.open, d.some = true, true
	f := leakFinding(d.set, d.event, m, j.Step)
	blame(f, d.steps, nil)
	f.Summary = leakSentence(f, fmt.Sprintf("The median of %d ranks", d.steps.Ranks()), leakKind(which))
	d.found = append(d.found, f)
}

// leakKind names the two kinds of memory.
func leakKind(which int) string { return [2]string{"resident memory", "GPU memory"}[which] }
