package supervise

import "slices"

// State is where the supervision of a run is.
type State string

// The states.
const (
	Launching   State = "launching"   // an attempt is being started
	Running     State = "running"     // it trains
	Saving      State = "saving"      // told to stop: it is being saved
	Terminating State = "terminating" // its processes got SIGTERM, or SIGABRT where they hang
	Killing     State = "killing"     // they got SIGKILL
	Sweeping    State = "sweeping"    // what is left of them is removed
	Judging     State = "judging"     // what ended it is concluded, and what follows decided
	Waiting     State = "waiting"     // until the next attempt
	Over        State = "over"
)

// following gives the states that may follow one.
func following(s State) []State {
	switch s {
	case "":
		return []State{Launching}
	case Launching:
		return []State{Running, Over}
	case Running:
		return []State{Saving, Terminating, Sweeping}
	case Saving:
		return []State{Terminating, Sweeping}
	case Terminating:
		return []State{Killing, Sweeping}
	case Killing:
		return []State{Sweeping}
	case Sweeping:
		return []State{Judging, Over}
	case Judging:
		return []State{Waiting, Over}
	case Waiting:
		return []State{Launching, Over}
	}
	return nil
}

// machine is the state and what it may become. It is for one goroutine.
type machine struct {
	state   State
	changed func(from, to State) // may be nil
	wrong   func(from, to State) // told of a change that must not be, which is made all the same
}

// to changes the state; to the same one it does nothing.
func (m *machine) to(next State) {
	if next == m.state {
		return
	}
	if !slices.Contains(following(m.state), next) {
		m.wrong(m.state, next)
	}
	was := m.state
	m.state = next
	if m.changed != nil {
		m.changed(was, next)
	}
}
