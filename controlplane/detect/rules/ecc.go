package rules

import (
	"fmt"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// ECCSettings says when memory errors of a GPU matter.
type ECCSettings struct {
	// Span is the time over which corrected errors are counted, in seconds.
	Span float64 `yaml:"span"`
	// Corrected is how many corrected errors in a span are too many.
	Corrected float64 `yaml:"corrected"`
}

// ECC finds errors of a GPU's memory.
//
// Method: the driver's counters. One more uncorrectable error is critical at
// once: what a process read is wrong, or it is ended. Corrected errors do no
// harm, and a few are normal; Corrected of them (default 60) in Span seconds
// (default 600) are a warning, since they come before the other kind. It is
// over after 30 minutes without an uncorrectable one, or a span with few.
//
// What it confuses: nothing known; where ECC is off it sees nothing.
func ECC(set ECCSettings) detect.NodeRule {
	return detect.NodeRule{
		Code:     "ecc",
		Title:    "GPU memory errors (ECC)",
		Explains: []string{kindHang, kindNonFinite, kindCrash},
		New:      func() detect.NodeDetector { return &ecc{set: set} },
	}
}

type ecc struct {
	set  ECCSettings
	gpus parts[eccOfGPU]
}

type eccOfGPU struct {
	uncorrected, corrected counter
	many                   *detect.Problem
}

// Observe takes the node's next event.
func (d *ecc) Observe(event *commonv1.Event, n *detect.Node) {
	for i, g := range event.GetNodeReport().GetGpus() {
		if g.EccUncorrected == nil && g.EccCorrected == nil {
			continue
		}
		s := d.gpus.of(i, g.GetUuid(), func() *eccOfGPU {
			return &eccOfGPU{many: n.Problem(fmt.Sprintf("corrected/gpu%d", g.GetIndex()))}
		})
		if g.EccUncorrected != nil {
			d.uncorrected(n, g, s)
		}
		if g.EccCorrected != nil {
			d.corrected(n, g, s)
		}
	}
}

func (d *ecc) uncorrected(n *detect.Node, g *commonv1.GpuReport, s *eccOfGPU) {
	grown := s.uncorrected.add(g.GetEccUncorrected())
	if grown == 0 {
		return
	}
	n.Problem(fmt.Sprintf("uncorrected/gpu%d", g.GetIndex())).Happened(n, critical, faultQuiet, func() *controlv1.Finding {
		f := n.GPUFinding(g, "GPU %d of %s had %d memory errors that ECC could not correct.", g.GetIndex(), n.Name, grown)
		f.Evidence = map[string]float64{"errors": float64(grown), "errors_total": float64(g.GetEccUncorrected())}
		return f
	})
}

func (d *ecc) corrected(n *detect.Node, g *commonv1.GpuReport, s *eccOfGPU) {
	count, full := s.corrected.span(n.Now(), d.set.Span, g.GetEccCorrected())
	if !full {
		return
	}
	v := detect.Verdict{Fine: float64(count) < d.set.Corrected/2}
	if float64(count) >= d.set.Corrected {
		v.Severity = warning
	}
	s.many.Judge(n, v, func() *controlv1.Finding {
		f := n.GPUFinding(g, "ECC corrected %d memory errors of GPU %d of %s within %.0f s; a few are normal, so many come before worse.",
			count, g.GetIndex(), n.Name, d.set.Span)
		f.Evidence = map[string]float64{"errors": float64(count), "span_seconds": d.set.Span}
		return f
	})
}
