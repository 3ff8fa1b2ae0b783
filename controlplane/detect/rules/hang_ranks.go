package rules

import (
	"fmt"
	"math"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// standstill finds a run of several ranks that stands still, and who stopped
// first.
type standstill struct {
	set     HangSettings
	attempt uint32
	begun   bool
	places  map[uint32]int
	ranks   []life
	gaps    *detect.Window // seconds between the run's steps
	longest float64
	step    int64   // the latest that any rank finished
	last    float64 // when any rank finished one, or a pause ended
	gained  float64 // when the latest step was first finished
	paused  int     // ranks that have declared a pause
	skip    bool    // the gap that goes on is not to be learnt from
	next    float64 // when to look again
	hung    bool
}

// life is a rank's last signs.
type life struct {
	rank     uint32
	node     string
	step     int64
	sign     float64 // time of its last report or tick
	activity commonv1.Activity
	paused   bool
}

func newStandstill(set HangSettings) *standstill {
	return &standstill{set: set, places: map[uint32]int{}, gaps: detect.NewWindow(max(1, set.Window))}
}

// of gives a rank's signs of life; nil for an attempt that is over.
func (d *standstill) of(event *commonv1.Event) *life {
	if d.begun && event.GetAttempt() < d.attempt {
		return nil
	}
	if !d.begun || event.GetAttempt() > d.attempt {
		*d = *newStandstill(d.set)
		d.begun, d.attempt = true, event.GetAttempt()
	}
	place, ok := d.places[event.GetRank()]
	if !ok {
		place = len(d.ranks)
		d.places[event.GetRank()] = place
		d.ranks = append(d.ranks, life{rank: event.GetRank()})
	}
	r := &d.ranks[place]
	r.node, r.sign = event.GetNode(), seconds(event)
	return r
}

func (d *standstill) report(event *commonv1.Event, s *commonv1.StepReport) {
	r := d.of(event)
	if r == nil {
		return
	}
	now := seconds(event)
	switch {
	case len(d.ranks) == 1 && d.gaps.Len() == 0 || s.GetStep() < d.step-far:
		d.gaps.Clear()
		d.longest, d.step, d.gained = 0, s.GetStep(), now
	case s.GetStep() > d.step:
		if gap := now - d.gained; gap >= 0 && !d.skip {
			d.gaps.Add(gap)
			d.longest = max(d.longest, gap)
		}
		d.step, d.gained, d.skip, d.hung = s.GetStep(), now, false, false
	}
	r.step, r.activity = s.GetStep(), commonv1.Activity_ACTIVITY_UNSPECIFIED
	d.last, d.next = max(d.last, now), 0
	d.pause(r, false)
}

// pause takes that a rank's declared pause begins or is over.
func (d *standstill) pause(r *life, begins bool) {
	if r.paused == begins {
		return
	}
	if r.paused = begins; begins {
		d.paused++
	} else {
		d.paused--
	}
}

// far is by how many steps a run must go back to have begun anew: ranks are at
// most a few apart.
const far = 8

func (d *standstill) phase(event *commonv1.Event, phase *commonv1.Phase) {
	r := d.of(event)
	if r == nil {
		return
	}
	switch phase.GetKind() {
	case commonv1.PhaseKind_PHASE_KIND_EVALUATION, commonv1.PhaseKind_PHASE_KIND_CHECKPOINT, commonv1.PhaseKind_PHASE_KIND_SETUP:
		d.pause(r, phase.GetEdge() == commonv1.PhaseEdge_PHASE_EDGE_BEGIN)
		d.skip, d.last = true, seconds(event)
	}
}

func (d *standstill) tick(event *commonv1.Event, tick *commonv1.Tick) []*controlv1.Finding {
	r := d.of(event)
	if r == nil {
		return nil
	}
	r.activity, r.step = tick.GetActivity(), max(r.step, tick.GetLastStep())
	now := seconds(event)
	if d.gaps.Len() < d.set.Warmup || d.paused > 0 || d.hung || now < d.next {
		return nil
	}
	still, median := now-d.last, d.gaps.Median()
	surely := max(d.set.Least, d.set.Medians*median, d.set.Longest*d.longest)
	apart := min(surely, max(d.set.Apart.Least, d.set.Apart.Medians*median, d.set.Apart.Longest*d.longest))
	if still <= apart {
		return nil
	}
	d.next = now + still/16 // a look costs what there are ranks
	who, why := d.stopped(now, still)
	if still <= surely && why == together {
		return nil
	}
	d.hung, d.skip = true, true
	f := detect.FindingOf(event, d.step, d.step)
	named(f, len(who), func(i int) (uint32, string) { return d.ranks[who[i]].rank, d.ranks[who[i]].node })
	f.Summary = fmt.Sprintf("No rank has finished a step for %.1f s since step %d; steps came every %.3g s, the longest pause was %.3g s. %s",
		still, d.step, median, d.longest, sentence(f, why))
	f.Evidence = map[string]float64{
		"still_seconds": still, "median_seconds": median, "longest_seconds": d.longest,
		"ranks": float64(len(d.ranks)), "ranks_blamed": float64(len(who)),
	}
	return []*controlv1.Finding{f}
}

// sign is what tells the ranks apart that stand still.
type sign uint8

const (
	// together: every rank works, as in an evaluation.
	together sign = iota
	// waiting: every rank waits for the others.
	waiting
	// silent: some have stopped to give signs of life.
	silent
	// outside: some are not in the collective operation that the others wait in.
	outside
	// odd: some are at another step than the others.
	odd
)

// stopped gives the places of the ranks that the others wait for, and how that
// can be told: who gives no sign of life, who works while the others wait, who
// is at another step, in this order. More than half of the ranks are not to
// blame for the rest.
func (d *standstill) stopped(now, still float64) ([]int, sign) {
	minority := func(of func(*life) bool) []int {
		var places []int
		for place := range d.ranks {
			if of(&d.ranks[place]) {
				places = append(places, place)
			}
		}
		if 2*len(places) > len(d.ranks) {
			return nil
		}
		return places
	}
	if who := minority(func(r *life) bool { return now-r.sign > still/2 }); len(who) > 0 {
		return who, silent
	}
	collective, working := 0, 0
	for i := range d.ranks {
		switch d.ranks[i].activity {
		case commonv1.Activity_ACTIVITY_COLLECTIVE:
			collective++
		case commonv1.Activity_ACTIVITY_COMPUTE, commonv1.Activity_ACTIVITY_DATA:
			working++
		}
	}
	if collective > 0 && working > 0 {
		who := minority(func(r *life) bool {
			return r.activity == commonv1.Activity_ACTIVITY_COMPUTE || r.activity == commonv1.Activity_ACTIVITY_DATA
		})
		if len(who) > 0 {
			return who, outside
		}
	}
	usual := d.usualStep()
	if who := minority(func(r *life) bool { return r.step != usual }); len(who) > 0 {
		return who, odd
	}
	if collective > 0 && working == 0 {
		return nil, waiting
	}
	return nil, together
}

// usualStep is the step at which most ranks are, or one that none is at.
func (d *standstill) usualStep() int64 {
	candidate, votes := int64(math.MinInt64), 0 // Boyer and Moore's majority vote
	for i := range d.ranks {
		switch {
		case votes == 0:
			candidate, votes = d.ranks[i].step, 1
		case d.ranks[i].step == candidate:
			votes++
		default:
			votes--
		}
	}
	return candidate
}

func sentence(f *controlv1.Finding, why sign) string {
	who := whoOf(f, false)
	many := len(f.GetRanks()) > 1
	is := func(one, several string) string {
		if many {
			return several
		}
		return one
	}
	switch why {
	case silent:
		return who + is(" gives", " give") + " no sign of life, and the others wait."
	case outside:
		return who + is(" is", " are") + " not in the collective operation that the others wait in."
	case odd:
		return who + is(" is", " are") + " at another step than the others."
	case waiting:
		return "Every rank waits in a collective operation; nothing tells for whom."
	}
	return "Every rank is at the same; nothing tells which stopped first."
}
