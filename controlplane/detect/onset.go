package detect

// patience is how many ordinary values in a row end a streak.
const patience = 3

// Onset remembers when the present streak of unusual values began, so that a
// finding can name the step at which a problem began rather than the one at
// which it was beyond doubt. The zero value has no streak.
type Onset struct {
	step   int64
	begun  bool
	misses int
}

// Mark takes the next value's step and whether it is unusual.
func (o *Onset) Mark(step int64, unusual bool) {
	switch {
	case unusual && !o.begun:
		*o = Onset{step: step, begun: true}
	case unusual:
		o.misses = 0
	case o.begun:
		if o.misses++; o.misses >= patience {
			*o = Onset{}
		}
	}
}

// Step is the step at which the streak began, or other where there is none.
func (o *Onset) Step(other int64) int64 {
	if !o.begun {
		return other
	}
	return o.step
}
