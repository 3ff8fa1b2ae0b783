package rules

import (
	"fmt"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// remapRelease is how long, in seconds, a GPU must be well again.
const remapRelease = 60

// Remap finds GPUs whose memory rows wait to be remapped, or cannot be.
//
// Method: the driver's own flags. A failed remapping is critical: the GPU has no
// spare rows left there and must be replaced. A pending one is a warning: it is
// done when the GPU is reset, and what lies on the row until then may be lost.
// Source: NVIDIA, GPU Memory Error Management, row remapping.
//
// What it confuses: nothing known.
func Remap() detect.NodeRule {
	return detect.NodeRule{
		Code:     "remap",
		Title:    "GPU row remapping",
		Explains: []string{kindNonFinite, kindCrash},
		New:      func() detect.NodeDetector { return &remap{} },
	}
}

type remap struct{ gpus parts[detect.Problem] }

// Observe takes the node's next event.
func (d *remap) Observe(event *commonv1.Event, n *detect.Node) {
	for i, g := range event.GetNodeReport().GetGpus() {
		if g.RemapPending == nil && g.RemapFailed == nil {
			continue
		}
		p := d.gpus.of(i, g.GetUuid(), func() *detect.Problem { return n.Problem(fmt.Sprintf("gpu%d", g.GetIndex())) })
		v := detect.Verdict{Fine: !g.GetRemapPending() && !g.GetRemapFailed(), Release: remapRelease}
		text := "A row of memory of GPU %d of %s waits to be remapped: reset the GPU when no run is on it."
		switch {
		case g.GetRemapFailed():
			v.Severity = critical
			text = "A row of memory of GPU %d of %s could not be remapped: the GPU must be replaced."
		case g.GetRemapPending():
			v.Severity = warning
		}
		p.Judge(n, v, func() *controlv1.Finding {
			f := n.GPUFinding(g, text, g.GetIndex(), n.Name)
			f.Evidence = map[string]float64{"remapped_rows": float64(g.GetRemappedRows())}
			return f
		})
	}
}
