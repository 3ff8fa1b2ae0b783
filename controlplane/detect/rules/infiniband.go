package rules

import (
	"fmt"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// InfiniBandSettings says when a fabric port is in trouble.
type InfiniBandSettings struct {
	// Span is the time over which errors and flaps are counted, in seconds.
	Span float64 `yaml:"span"`
	// Errors is how many errors in a span are too many.
	Errors float64 `yaml:"errors"`
	// Flaps is how many times a link may go down in a span before that is
	// critical.
	Flaps int `yaml:"flaps"`
	// Hold is how long a port must be down before it is found, in seconds.
	Hold float64 `yaml:"hold"`
}

// InfiniBand finds fabric ports that go down, flap, or make errors.
//
// Method: a port that was ACTIVE and is not for Hold seconds (default 20) is
// critical; one that never was ACTIVE is not in use. A link that went down and
// is up again is a warning, Flaps times (default 3) within Span seconds (default
// 300) critical. Errors (default 100) symbol and packet errors in a span are a
// warning. All end by themselves when the port is well for a span, so that
// nobody has to clear a flap by hand.
//
// What it confuses: a port that is taken out of use by intent.
func InfiniBand(set InfiniBandSettings) detect.NodeRule {
	return detect.NodeRule{
		Code:     "infiniband",
		Title:    "InfiniBand or RoCE port",
		Explains: []string{kindHang, kindStraggler, kindCrash},
		New:      func() detect.NodeDetector { return &infiniband{set: set} },
	}
}

type infiniband struct {
	set   InfiniBandSettings
	ports parts[port]
}

type port struct {
	name          string
	used          bool // it was ACTIVE once
	downed        counter
	flapped       int64 // in the span
	since         float64
	errors        counter
	packets       counter
	down, many, p *detect.Problem // p is the flaps'
}

// Observe takes the node's next event.
func (d *infiniband) Observe(event *commonv1.Event, n *detect.Node) {
	for i, r := range event.GetNodeReport().GetPorts() {
		s := d.port(i, r, n)
		active := r.GetState() == "ACTIVE"
		s.used = s.used || active || s.down.Open()
		v := detect.Verdict{Fine: active, Hold: d.set.Hold, Release: d.set.Hold}
		if s.used && !active && r.GetState() != "" {
			v.Severity = critical
		}
		s.down.Judge(n, v, func() *controlv1.Finding {
			return n.Finding(s.name, "Fabric port %s of %s is %s and was ACTIVE before.", s.name, n.Name, r.GetState())
		})
		if r.LinkDowned != nil {
			d.flaps(n, r, s)
		}
		d.errors(n, r, s)
	}
}

// port gives a port's state. The name is made only once: the ports of an
// adapter come in order.
func (d *infiniband) port(place int, r *commonv1.PortReport, n *detect.Node) *port {
	if place < len(d.ports.states) {
		if s := d.ports.states[place]; len(s.name) > len(r.GetDevice()) && s.name[:len(r.GetDevice())] == r.GetDevice() &&
			s.name[len(r.GetDevice())] == '/' && r.GetPort() < 10 && s.name[len(r.GetDevice())+1:] == digits[r.GetPort():r.GetPort()+1] {
			return s
		}
	}
	name := fmt.Sprintf("%s/%d", r.GetDevice(), r.GetPort())
	return d.ports.of(place, name, func() *port {
		return &port{name: name, down: n.Problem("down/" + name), many: n.Problem("errors/" + name), p: n.Problem("flaps/" + name)}
	})
}

const digits = "0123456789"

func (d *infiniband) flaps(n *detect.Node, r *commonv1.PortReport, s *port) {
	if n.Now()-s.since >= d.set.Span || n.Now() < s.since {
		s.since, s.flapped = n.Now(), 0
	}
	grown := s.downed.add(r.GetLinkDowned())
	s.flapped += grown
	v := detect.Verdict{Fine: grown == 0, Release: d.set.Span}
	switch {
	case s.flapped >= int64(d.set.Flaps):
		v.Severity = critical
	case s.flapped > 0:
		v.Severity = warning
	}
	s.p.Judge(n, v, func() *controlv1.Finding {
		f := n.Finding(s.name, "The link of fabric port %s of %s went down %d times within %.0f s.", s.name, n.Name, s.flapped, d.set.Span)
		f.Evidence = map[string]float64{"flaps": float64(s.flapped), "flaps_total": float64(r.GetLinkDowned())}
		return f
	})
}

func (d *infiniband) errors(n *detect.Node, r *commonv1.PortReport, s *port) {
	if r.LinkErrors == nil && r.PacketErrors == nil {
		return
	}
	link, full := s.errors.span(n.Now(), d.set.Span, r.GetLinkErrors())
	packet, _ := s.packets.span(n.Now(), d.set.Span, r.GetPacketErrors())
	if !full {
		return
	}
	count := link + packet
	v := detect.Verdict{Fine: float64(count) < d.set.Errors/2}
	if float64(count) >= d.set.Errors {
		v.Severity = warning
	}
	s.many.Judge(n, v, func() *controlv1.Finding {
		f := n.Finding(s.name, "Fabric port %s of %s had %d link and %d packet errors within %.0f s.", s.name, n.Name, link, packet, d.set.Span)
		f.Evidence = map[string]float64{"link_errors": float64(link), "packet_errors": float64(packet), "span_seconds": d.set.Span}
		return f
	})
}
