package retain

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// plan is the decisions while they are made.
type plan struct {
	policy    Policy
	now       time.Time
	decisions []Decision // newest first
	fixed     []bool     // kept whatever the free space is
}

func (p *plan) keep(i int, reason string) {
	p.decisions[i].Keep = true
	p.decisions[i].Reasons = append(p.decisions[i].Reasons, reason)
}

// always keeps what no policy may remove.
func (p *plan) always() {
	p.fixed = make([]bool, len(p.decisions))
	found := false
	for i, d := range p.decisions {
		c := d.Checkpoint
		if !found && c.Verified && c.Health == Healthy {
			found = true
			p.fix(i, "the last verified healthy one")
		}
		if !found && c.Health != Poisoned && i == p.firstUsable() {
			p.fix(i, "the newest one, and no healthy one is newer")
		}
		if c.Pinned {
			p.fix(i, "pinned")
		}
		if c.InUse {
			p.fix(i, "in use")
		}
	}
}

func (p *plan) fix(i int, reason string) {
	p.fixed[i] = true
	p.keep(i, reason)
}

// firstUsable is the place of the newest one that is not poisoned: it may become
// the last healthy one, once it is verified.
func (p *plan) firstUsable() int {
	return slices.IndexFunc(p.decisions, func(d Decision) bool { return d.Checkpoint.Health != Poisoned })
}

// number keeps the newest. Poisoned ones and those that were never verified do
// not count: nobody resumes from them, and they must not push out those that
// somebody could.
func (p *plan) number() {
	kept := 0
	for i, d := range p.decisions {
		switch {
		case p.policy.KeepLast == 0:
			p.keep(i, "all are kept")
		case d.Checkpoint.Health == Poisoned || !d.Checkpoint.Verified:
		case kept < p.policy.KeepLast:
			kept++
			p.keep(i, fmt.Sprintf("one of the last %d", p.policy.KeepLast))
		}
		if p.policy.KeepLast > 0 && p.now.Sub(d.Checkpoint.Created) < p.policy.MinAge {
			p.keep(i, fmt.Sprintf("younger than %s", p.policy.MinAge))
		}
	}
}

// period keeps the newest of each of the last hours or days that have one.
func (p *plan) period(name string, count int, layout string) {
	last := ""
	for i, d := range p.decisions {
		if count == 0 {
			return
		}
		if d.Checkpoint.Health == Poisoned {
			continue
		}
		if period := d.Checkpoint.Created.UTC().Format(layout); period != last {
			p.keep(i, fmt.Sprintf("%s, of %s", name, period))
			last = period
			count--
		}
	}
}

// milestones keeps the first of every so many steps.
func (p *plan) milestones() {
	every := p.policy.KeepEverySteps
	if every == 0 {
		return
	}
	last := int64(-1)
	for i := len(p.decisions) - 1; i >= 0; i-- {
		c := p.decisions[i].Checkpoint
		if milestone := c.Step / every; c.Health != Poisoned && milestone != last {
			p.keep(i, fmt.Sprintf("the first from step %d on", milestone*every))
			last = milestone
		}
	}
}

// best keeps those with the best metric, of two the newer.
func (p *plan) best() {
	var known []int
	for i, d := range p.decisions {
		if d.Checkpoint.Metric != nil && d.Checkpoint.Health != Poisoned {
			known = append(known, i)
		}
	}
	slices.SortStableFunc(known, func(a, b int) int {
		worse := cmp.Compare(*p.decisions[a].Checkpoint.Metric, *p.decisions[b].Checkpoint.Metric)
		if p.policy.Greater {
			return -worse
		}
		return worse
	})
	for place, i := range known[:min(len(known), p.policy.KeepBest)] {
		p.keep(i, fmt.Sprintf("number %d of the best %d", place+1, p.policy.KeepBest))
	}
}

// settle says why what nobody keeps is removed.
func (p *plan) settle() {
	for i := range p.decisions {
		d := &p.decisions[i]
		switch {
		case d.Keep:
		case !d.Checkpoint.Verified && d.Checkpoint.Health != Poisoned:
			d.Reasons = []string{"never verified, or a rank is missing: nobody can resume from it"}
		case d.Checkpoint.Health == Poisoned:
			d.Reasons = []string{"poisoned: nobody will resume from it"}
		default:
			d.Reasons = []string{"no rule keeps it"}
		}
	}
}

// makeRoom removes more where space is short: what is poisoned, then suspect,
// then the oldest, and never what is fixed.
func (p *plan) makeRoom(freeBytes int64) {
	for _, d := range p.decisions {
		if !d.Keep {
			freeBytes += d.Checkpoint.SizeBytes
		}
	}
	var spare []int
	for i := len(p.decisions) - 1; i >= 0; i-- {
		if p.decisions[i].Keep && !p.fixed[i] {
			spare = append(spare, i)
		}
	}
	slices.SortStableFunc(spare, func(a, b int) int {
		return cmp.Compare(worth(p.decisions[a].Checkpoint), worth(p.decisions[b].Checkpoint))
	})
	for _, i := range spare {
		if freeBytes >= p.policy.MinFreeBytes {
			return
		}
		d := &p.decisions[i]
		d.Keep = false
		d.Reasons = []string{fmt.Sprintf("space: %d bytes would be free, %d must be", freeBytes, p.policy.MinFreeBytes)}
		freeBytes += d.Checkpoint.SizeBytes
	}
}

// worth orders what is removed for space by health; age orders the rest.
func worth(c Checkpoint) int {
	switch c.Health {
	case Poisoned:
		return 0
	case Suspect:
		return 1
	}
	return 2
}
