package detect

import (
	"math"
	"slices"
)

const (
	// openSteps is how many steps may be incomplete at a time: ranks that train
	// in lockstep are at most a few steps apart.
	openSteps = 4
	// absentAfter is how many judged steps a rank may miss before nobody waits
	// for its reports any more.
	absentAfter = 16
	// maxRanks bounds a run's memory; what further ranks report is not compared.
	maxRanks = 1 << 17
)

// Lockstep brings together what the ranks of a run report of one step, so that
// they can be compared. A step is handed over once, when every rank has
// reported it; when a later step is complete, so that what is missing is lost;
// or when too many steps are incomplete. Rows may come late, twice or never.
// Memory is that of the ranks times a few steps. Make one with [NewLockstep].
type Lockstep[T any] struct {
	judge   func(*Joint[T])
	places  map[uint32]int
	ranks   []uint32
	nodes   []string
	seen    []int64 // each rank's latest step
	missed  []int   // judged steps in a row that a rank did not report
	absent  int     // ranks that nobody waits for
	attempt uint32
	begun   bool
	closed  int64 // the latest step that was handed over
	stride  int64 // from the one before; 0 when not known
	open    []*Joint[T]
	spare   []*Joint[T]
}

// Joint is what the ranks report of one step. Places are those of the ranks in
// the order in which they were first seen; they stay the same for an attempt.
type Joint[T any] struct {
	// Step is the step.
	Step int64
	// Rows has a place for each rank; of one that is not in Has it means nothing.
	Rows []T
	// Has tells who reported.
	Has   []bool
	count int
}

// NewLockstep makes one that hands its steps to judge, during Put. Judge must
// not keep the step.
func NewLockstep[T any](judge func(*Joint[T])) *Lockstep[T] {
	l := &Lockstep[T]{judge: judge}
	l.Clear()
	return l
}

// Clear forgets all ranks and steps.
func (l *Lockstep[T]) Clear() {
	*l = Lockstep[T]{judge: l.judge, places: map[uint32]int{}, closed: math.MinInt64}
}

// Ranks is the number of ranks that were seen in this attempt.
func (l *Lockstep[T]) Ranks() int { return len(l.ranks) }

// Attempt is the attempt whose ranks these are.
func (l *Lockstep[T]) Attempt() uint32 { return l.attempt }

// Rank is the rank of a place.
func (l *Lockstep[T]) Rank(place int) uint32 { return l.ranks[place] }

// Node is the node of a place; empty when not known.
func (l *Lockstep[T]) Node(place int) string { return l.nodes[place] }

// Put takes a rank's report of a step. It is Skip where the step was handed over
// already or its attempt is over; the report counts for nothing then. It is
// Restart with the first report, with a new attempt, and when a rank goes back
// farther than ranks are apart, as after a rollback: the steps that were not
// handed over are forgotten and, with a new attempt, the ranks.
func (l *Lockstep[T]) Put(attempt, rank uint32, node string, step int64, row T) Change {
	change := Next
	switch {
	case !l.begun || attempt > l.attempt:
		l.Clear()
		l.begun, l.attempt, change = true, attempt, Restart
	case attempt < l.attempt:
		return Skip
	}
	place, ok := l.place(rank)
	if !ok {
		return Skip
	}
	l.nodes[place] = node
	if seen := l.seen[place]; seen != math.MinInt64 && step < seen-openSteps*max(1, l.stride) {
		l.rewind()
		change = Restart
	}
	l.seen[place] = step
	if l.missed[place] >= absentAfter {
		l.absent--
	}
	l.missed[place] = 0
	if step <= l.closed {
		return Skip
	}
	joint := l.joint(step)
	if place < len(joint.Has) && joint.Has[place] {
		joint.count-- // said twice
	}
	for len(joint.Rows) <= place {
		var none T
		joint.Rows, joint.Has = append(joint.Rows, none), append(joint.Has, false)
	}
	joint.Rows[place], joint.Has[place] = row, true
	if joint.count++; joint.count >= len(l.ranks)-l.absent {
		l.Settle(step)
	}
	if len(l.open) > openSteps {
		l.Settle(l.open[0].Step)
	}
	return change
}

// place gives a rank's place, a new one where it is seen first.
func (l *Lockstep[T]) place(rank uint32) (int, bool) {
	if len(l.ranks) == 1 && l.ranks[0] == rank {
		return 0, true
	}
	if place, ok := l.places[rank]; ok {
		return place, true
	}
	if len(l.ranks) >= maxRanks {
		return 0, false
	}
	place := len(l.ranks)
	l.places[rank] = place
	l.ranks, l.nodes = append(l.ranks, rank), append(l.nodes, "")
	l.seen, l.missed = append(l.seen, math.MinInt64), append(l.missed, 0)
	return place, true
}

// rewind forgets what is incomplete, and how far every rank was.
func (l *Lockstep[T]) rewind() {
	l.spare, l.open = append(l.spare, l.open...), l.open[:0]
	l.closed = math.MinInt64
	for place := range l.seen {
		l.seen[place] = math.MinInt64
	}
}

// joint gives the step that is incomplete, a new one where it is seen first;
// steps are in order.
func (l *Lockstep[T]) joint(step int64) *Joint[T] {
	at, ok := slices.BinarySearchFunc(l.open, step, func(j *Joint[T], step int64) int {
		switch {
		case j.Step < step:
			return -1
		case j.Step > step:
			return 1
		}
		return 0
	})
	if ok {
		return l.open[at]
	}
	var joint *Joint[T]
	if n := len(l.spare); n > 0 {
		joint, l.spare = l.spare[n-1], l.spare[:n-1]
	} else {
		joint = &Joint[T]{}
	}
	joint.Step, joint.count = step, 0
	joint.Rows, joint.Has = slices.Grow(joint.Rows[:0], len(l.ranks))[:len(l.ranks)], slices.Grow(joint.Has[:0], len(l.ranks))[:len(l.ranks)]
	clear(joint.Has)
	l.open = slices.Insert(l.open, at, joint)
	return joint
}

// Settle hands over all steps up to this one as they are.
func (l *Lockstep[T]) Settle(step int64) {
	for len(l.open) > 0 && l.open[0].Step <= step {
		joint := l.open[0]
		l.open = slices.Delete(l.open, 0, 1)
		if l.closed != math.MinInt64 {
			l.stride = joint.Step - l.closed
		}
		l.closed = joint.Step
		l.hand(joint)
		l.spare = append(l.spare, joint)
	}
}

// hand hands a step over, with a place for every rank.
func (l *Lockstep[T]) hand(joint *Joint[T]) {
	for len(joint.Rows) < len(l.ranks) {
		var none T
		joint.Rows, joint.Has = append(joint.Rows, none), append(joint.Has, false)
	}
	if joint.count < len(l.ranks)-l.absent {
		for place, has := range joint.Has {
			if has || l.seen[place] > joint.Step {
				continue
			}
			if l.missed[place]++; l.missed[place] == absentAfter {
				l.absent++
			}
		}
	}
	l.judge(joint)
}
