package rules

import (
	"fmt"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// NVLinkSettings says when NVLinks are in trouble.
type NVLinkSettings struct {
	// Span is the time over which errors are counted, in seconds.
	Span float64 `yaml:"span"`
	// Errors is how many errors in a span are too many.
	Errors float64 `yaml:"errors"`
	// Hold is how long a link must be down before it is found, in seconds.
	Hold float64 `yaml:"hold"`
}

// NVLink finds NVLinks that are down or that make errors.
//
// Method: links that should be up and are not for Hold seconds (default 30) are
// critical, since collective operations then hang or crawl. Errors (default
// 100) replays, recoveries and CRC errors within Span seconds (default 300) are
// a warning: each is mended by sending again, at the price of time.
//
// What it confuses: links that are down while the fabric manager restarts.
func NVLink(set NVLinkSettings) detect.NodeRule {
	return detect.NodeRule{
		Code:     "nvlink",
		Title:    "NVLink",
		Explains: []string{kindHang, kindStraggler, kindCrash},
		New:      func() detect.NodeDetector { return &nvlink{set: set} },
	}
}

type nvlink struct {
	set  NVLinkSettings
	gpus parts[nvlinkOfGPU]
}

type nvlinkOfGPU struct {
	errors     counter
	down, many *detect.Problem
}

// Observe takes the node's next event.
func (d *nvlink) Observe(event *commonv1.Event, n *detect.Node) {
	for i, g := range event.GetNodeReport().GetGpus() {
		if g.NvlinksDown == nil && g.NvlinkErrors == nil {
			continue
		}
		s := d.gpus.of(i, g.GetUuid(), func() *nvlinkOfGPU {
			return &nvlinkOfGPU{
				down: n.Problem(fmt.Sprintf("down/gpu%d", g.GetIndex())), many: n.Problem(fmt.Sprintf("errors/gpu%d", g.GetIndex())),
			}
		})
		if g.NvlinksDown != nil {
			v := detect.Verdict{Fine: g.GetNvlinksDown() == 0, Hold: d.set.Hold, Release: d.set.Hold}
			if !v.Fine {
				v.Severity = critical
			}
			s.down.Judge(n, v, func() *controlv1.Finding {
				f := n.GPUFinding(g, "%d NVLinks of GPU %d of %s are down.", g.GetNvlinksDown(), g.GetIndex(), n.Name)
				f.Evidence = map[string]float64{"links_down": float64(g.GetNvlinksDown())}
				return f
			})
		}
		if g.NvlinkErrors != nil {
			d.errors(n, g, s)
		}
	}
}

func (d *nvlink) errors(n *detect.Node, g *commonv1.GpuReport, s *nvlinkOfGPU) {
	count, full := s.errors.span(n.Now(), d.set.Span, g.GetNvlinkErrors())
	if !full {
		return
	}
	v := detect.Verdict{Fine: float64(count) < d.set.Errors/2}
	if float64(count) >= d.set.Errors {
		v.Severity = warning
	}
	s.many.Judge(n, v, func() *controlv1.Finding {
		f := n.GPUFinding(g, "The NVLinks of GPU %d of %s had %d errors within %.0f s.", g.GetIndex(), n.Name, count, d.set.Span)
		f.Evidence = map[string]float64{"errors": float64(count), "span_seconds": d.set.Span}
		return f
	})
}
