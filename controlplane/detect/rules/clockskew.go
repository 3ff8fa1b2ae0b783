package rules

import (
	"math"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// ClockSkewSettings says when a clock is wrong.
type ClockSkewSettings struct {
	// Warn is how many seconds off are a warning.
	Warn float64 `yaml:"warn"`
	// Critical is how many seconds off are critical.
	Critical float64 `yaml:"critical"`
	// Hold is how long it must last, in seconds, as the node's reports tell it.
	Hold float64 `yaml:"hold"`
}

// ClockSkew finds nodes whose clock is wrong.
//
// Method: by how much the clock is off as the node's time service knows it, and
// by how much it is ahead of the control plane's as heartbeats show: the greater
// counts. Warn (default 1 s) is a warning, Critical (default 30 s) critical,
// since certificates and leases fail then; either for Hold seconds (default 60).
// Two nodes that are 2 s apart are at least 1 s off one clock, so that skew
// between nodes is found too. What is correlated over nodes is corrected by it.
//
// What it confuses: when the control plane's own clock is wrong, all nodes are.
func ClockSkew(set ClockSkewSettings) detect.NodeRule {
	return detect.NodeRule{Code: "clock-skew", Title: "Clock is wrong", New: func() detect.NodeDetector {
		return &clockSkew{set: set}
	}}
}

type clockSkew struct {
	set           ClockSkewSettings
	ahead, offset float64
	problem       *detect.Problem
}

// Observe takes the node's next event.
func (d *clockSkew) Observe(event *commonv1.Event, n *detect.Node) {
	if link := event.GetNodeLink(); link != nil {
		if link.ClockAheadSeconds != nil {
			d.ahead = link.GetClockAheadSeconds()
		}
		return
	}
	r := event.GetNodeReport()
	if r == nil {
		return
	}
	d.offset = r.GetClockOffsetSeconds()
	off := d.ahead
	if math.Abs(d.offset) > math.Abs(off) {
		off = d.offset
	}
	if d.problem == nil {
		d.problem = n.Problem("clock")
	}
	v := detect.Verdict{Fine: math.Abs(off) < d.set.Warn/2, Hold: d.set.Hold, Release: d.set.Hold}
	switch {
	case math.Abs(off) >= d.set.Critical:
		v.Severity = critical
	case math.Abs(off) >= d.set.Warn:
		v.Severity = warning
	}
	d.problem.Judge(n, v, func() *controlv1.Finding {
		way := "ahead"
		if off < 0 {
			way = "behind"
		}
		f := n.Finding("clock", "The clock of %s is %.1f s %s.", n.Name, math.Abs(off), way)
		f.Evidence = map[string]float64{"ahead_seconds": d.ahead, "offset_seconds": d.offset}
		return f
	})
}
