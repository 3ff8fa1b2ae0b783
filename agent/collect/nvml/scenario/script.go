package scenario

import (
	"slices"
	"strings"
	"time"
)

// version is the script's format, docs/formats/gpu-script.md.
const version = 1

// Script is what goes wrong with simulated GPUs, and when.
type Script struct {
	// Version is 1.
	Version int `yaml:"version"`
	// Repeat starts the script again after that time; 0 plays it once.
	Repeat time.Duration `yaml:"repeat"`
	// Events may stand in any order.
	Events []Event `yaml:"events"`
}

// Event is one thing that goes wrong. What is not set does not happen.
type Event struct {
	// At is the time since the agent started.
	At time.Duration `yaml:"at"`
	// For is how long it lasts; 0 means for ever. An XID is over at once, and
	// counters never go back.
	For time.Duration `yaml:"for"`
	// GPUs are the indices of those that it hits; none means all.
	GPUs []int `yaml:"gpus"`

	// XID is the number of an XID error.
	XID int32 `yaml:"xid"`
	// Hang makes calls to the GPU not return; to all GPUs, not to NVML either.
	Hang bool `yaml:"hang"`
	// Lost makes calls to the GPU say that it has fallen off the bus.
	Lost bool `yaml:"lost"`
	// Idle takes the GPU's work away.
	Idle bool `yaml:"idle"`
	// Throttle is a reason to run below the clock, one of [Reasons].
	Throttle string `yaml:"throttle"`
	// ECC adds memory errors, spread over For, else at once.
	ECC *ECC `yaml:"ecc"`
	// Remap remaps rows of memory.
	Remap *Remap `yaml:"remap"`
	// NVLink takes links down or adds errors.
	NVLink *NVLink `yaml:"nvlink"`
	// PCIe makes the PCIe link worse.
	PCIe *PCIe `yaml:"pcie"`
}

// ECC is memory errors to add.
type ECC struct {
	Corrected   uint64 `yaml:"corrected"`
	Uncorrected uint64 `yaml:"uncorrected"`
}

// Remap is rows to remap, and whether a reset is waited for or it went wrong.
type Remap struct {
	Correctable   int  `yaml:"correctable"`
	Uncorrectable int  `yaml:"uncorrectable"`
	Pending       bool `yaml:"pending"`
	Failed        bool `yaml:"failed"`
}

// NVLink is links that go down and replay errors to add.
type NVLink struct {
	Down   int    `yaml:"down"`
	Errors uint64 `yaml:"errors"`
}

// PCIe is what is left of the link, and messages that are sent again.
type PCIe struct {
	Width      int `yaml:"width"`      // lanes; 0 leaves them
	Generation int `yaml:"generation"` // 0 leaves it
	Replays    int `yaml:"replays"`
}

// Reasons are the reasons for which a GPU runs below its clock, as the metric
// vigil_gpu_throttled has them.
func Reasons() []string {
	return []string{"hardware_thermal", "software_thermal", "power_cap", "power_brake", "hardware_slowdown", "sync_boost"}
}

// Check reports what no script can say.
func (s Script) Check(report func(key, format string, args ...any)) {
	if s.Version != version {
		report("version", "is %d; this build reads %d", s.Version, version)
	}
	if s.Repeat < 0 {
		report("repeat", "is %v; want 0 or more", s.Repeat)
	}
}

// Check reports what no event can say.
func (e Event) Check(report func(key, format string, args ...any)) {
	if e.At < 0 || e.For < 0 {
		report("at", "and for are %v and %v; want 0 or more", e.At, e.For)
	}
	if e.XID < 0 {
		report("xid", "is %d; want a number above 0", e.XID)
	}
	if e.Throttle != "" && !slices.Contains(Reasons(), e.Throttle) {
		report("throttle", "%q is no reason; there are %s", e.Throttle, strings.Join(Reasons(), ", "))
	}
	if slices.ContainsFunc(e.GPUs, func(gpu int) bool { return gpu < 0 }) {
		report("gpus", "%v: a GPU is counted from 0", e.GPUs)
	}
	if (e.Remap != nil && (e.Remap.Correctable < 0 || e.Remap.Uncorrectable < 0)) || (e.NVLink != nil && e.NVLink.Down < 0) ||
		(e.PCIe != nil && (e.PCIe.Width < 0 || e.PCIe.Generation < 0 || e.PCIe.Replays < 0)) {
		report("", "a count is below 0")
	}
	if e.XID == 0 && !e.Hang && !e.Lost && !e.Idle && e.Throttle == "" && e.ECC == nil && e.Remap == nil && e.NVLink == nil && e.PCIe == nil {
		report("", "nothing happens; set one of xid, hang, lost, idle, throttle, ecc, remap, nvlink, pcie")
	}
}

// Hits tells whether the event concerns a GPU.
func (e Event) Hits(gpu int) bool { return len(e.GPUs) == 0 || slices.Contains(e.GPUs, gpu) }

// Active tells whether the event is going on at a time since the start.
func (s Script) Active(e Event, at time.Duration) bool {
	at, _ = s.round(at)
	return at >= e.At && (e.For == 0 || at < e.At+e.For)
}

// Until gives how long an active event goes on from a time; 0 means for ever.
func (s Script) Until(e Event, at time.Duration) time.Duration {
	at, _ = s.round(at)
	left := s.Repeat - at
	switch {
	case e.For == 0 && s.Repeat == 0:
		return 0
	case e.For == 0:
		return left
	case s.Repeat == 0:
		return e.At + e.For - at
	default:
		return min(left, e.At+e.For-at)
	}
}

// Share gives how much of what an event adds has been added: 1 for each time
// that it is over, and the part that has passed while it goes on.
func (s Script) Share(e Event, at time.Duration) float64 {
	at, rounds := s.round(at)
	done := float64(0)
	if s.Repeat == 0 || e.At < s.Repeat {
		done = float64(rounds)
	}
	switch {
	case at < e.At:
		return done
	case e.For == 0:
		return done + 1
	default:
		return done + min(1, float64(at-e.At)/float64(e.For))
	}
}

// round gives the time within the script's present round, and how many rounds
// are over.
func (s Script) round(at time.Duration) (time.Duration, int64) {
	if s.Repeat <= 0 || at < 0 {
		return at, 0
	}
	return at % s.Repeat, int64(at / s.Repeat)
}

// NextXIDs gives the first XIDs behind a time, which come together, and their
// time, counted from the start; none when there are no more.
func (s Script) NextXIDs(after time.Duration) (next []Event, at time.Duration) {
	_, rounds := s.round(after)
	for _, e := range s.Events {
		if e.XID == 0 || (s.Repeat > 0 && e.At >= s.Repeat) {
			continue
		}
		when := e.At + time.Duration(rounds)*s.Repeat
		if when <= after && s.Repeat > 0 {
			when += s.Repeat
		}
		switch {
		case when <= after || (len(next) > 0 && when > at):
		case len(next) > 0 && when == at:
			next = append(next, e)
		default:
			next, at = []Event{e}, when
		}
	}
	return next, at
}
