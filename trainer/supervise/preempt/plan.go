package preempt

import "time"

// Measures is how long saving takes here; zero: not known.
type Measures struct {
	Stage time.Duration // from the request until the files are handed over
	Seal  time.Duration // from then until they are read back
}

// Plan is what is done with the time that is left.
type Plan int

// The plans.
const (
	// SaveInFull has the run saved and stopped.
	SaveInFull Plan = iota
	// ConfirmLast does not begin a save that could not be finished: it waits until
	// the last checkpoint is read back.
	ConfirmLast
)

// spare is by how much a save may take longer than those before it.
const spare = 1.25

// Choose decides what fits into the time that is left. A save counts when its
// files are handed over: from then on the agent keeps them. Only where the
// machine itself goes away must they be sealed, too. Where nothing is known
// there is nothing better than to try, and neither is there where no checkpoint
// waits to be confirmed.
func Choose(left time.Duration, m Measures, machineGoes, hasLast bool) Plan {
	need := m.Stage
	if machineGoes {
		need += m.Seal
	}
	if hasLast && m.Stage > 0 && time.Duration(float64(need)*spare) > left {
		return ConfirmLast
	}
	return SaveInFull
}
