package rules

import "github.com/vigil-ml/vigil/controlplane/detect"

// Nodes is every rule for nodes, with its settings. The live control plane and a
// replay use this one list.
func Nodes(s NodeSettings) []detect.NodeRule {
	return []detect.NodeRule{
		XID(s.XID),
		ECC(s.ECC),
		Remap(),
		NVLink(s.NVLink),
		InfiniBand(s.InfiniBand),
		Throttling(s.Throttling),
		GPUIdle(s.GPUIdle),
		DeviceStuck(s.DeviceStuck),
		OOMKill(),
		MemoryHigh(s.MemoryHigh),
		CPUHigh(s.CPUHigh),
		GPUMemoryHigh(s.GPUMemoryHigh),
		DiskHigh(s.DiskHigh),
		DiskFull(s.DiskFull),
		DiskFilling(s.DiskFilling),
		MemoryFilling(s.MemoryFilling),
		Hardware(),
		ClockSkew(s.ClockSkew),
		NodeLost(),
	}
}

// The kinds of a run's findings that nodes' problems explain.
const (
	kindHang       = "hang"
	kindStraggler  = "straggler"
	kindStarvation = "starvation"
	kindNonFinite  = "nonfinite"
	kindCrash      = "crash"
)

// faultQuiet is after how many seconds without another fault of the kind a
// fault's problem is over.
const faultQuiet = 1800

// maxParts bounds the parts of a node that a rule follows.
const maxParts = 512

// parts is a rule's state for each part of a node, in the order of its reports;
// the parts are few and their order seldom changes.
type parts[T any] struct {
	names  []string
	states []*T
}

// of gives the state of the part that a report has at a place, made where there
// is none.
func (p *parts[T]) of(place int, name string, create func() *T) *T {
	if place < len(p.names) && p.names[place] == name {
		return p.states[place]
	}
	for i := range p.names {
		if p.names[i] == name {
			return p.states[i]
		}
	}
	if len(p.names) == maxParts {
		return create() // names without end; its past is not kept
	}
	p.names, p.states = append(p.names, name), append(p.states, create())
	return p.states[len(p.states)-1]
}

// counter follows a count that only grows, over spans of a length.
type counter struct {
	begun bool
	value int64
	start float64 // of the span
	sum   int64   // in the span
}

// add takes the count and gives by how much it grew; the first value, and one
// that is less since the driver was loaded anew, grew by nothing.
func (c *counter) add(value int64) int64 {
	grown := value - c.value
	if !c.begun || grown < 0 {
		grown = 0
	}
	c.begun, c.value = true, value
	return grown
}

// span takes the count and, when a span of a length in seconds has passed,
// gives by how much it grew in it and true.
func (c *counter) span(now, length float64, value int64) (int64, bool) {
	if !c.begun || now < c.start || now-c.start > 4*length {
		c.start, c.sum = now, 0
	}
	c.sum += c.add(value)
	if now-c.start < length {
		return 0, false
	}
	sum := c.sum
	c.start, c.sum = now, 0
	return sum, true
}
