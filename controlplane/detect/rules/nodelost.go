package rules

import (
	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// NodeLost finds nodes of which nothing is heard any more.
//
// Method: the control plane's own word, which it gives when the stream is gone
// for fleet.lost_after (default 60 s). It is critical when a run trains on the
// node, else a warning, and over when the node is back.
//
// What it confuses: a lost node, an agent that was stopped, and a network that
// is cut look the same from here.
func NodeLost() detect.NodeRule {
	return detect.NodeRule{
		Code:     "node-lost",
		Title:    "Node lost",
		Explains: []string{kindHang, kindStraggler, kindCrash},
		New:      func() detect.NodeDetector { return nodeLost{} },
	}
}

type nodeLost struct{}

// Observe takes the node's next event.
func (nodeLost) Observe(event *commonv1.Event, n *detect.Node) {
	link := event.GetNodeLink()
	if link == nil {
		return
	}
	v := detect.Verdict{Fine: link.GetState() == commonv1.LinkState_LINK_STATE_CONNECTED}
	if link.GetState() == commonv1.LinkState_LINK_STATE_LOST {
		v.Severity = warning
		if n.Runs() > 0 {
			v.Severity = critical
		}
	}
	n.Problem("link").Judge(n, v, func() *controlv1.Finding {
		if link.GetLastHeard() == nil {
			return n.Finding("link", "Nothing is heard of %s.", n.Name)
		}
		silent := detect.Seconds(event) - float64(link.GetLastHeard().GetSeconds())
		f := n.Finding("link", "Nothing has been heard of %s for %.0f s.", n.Name, silent)
		f.Evidence = map[string]float64{"silent_seconds": silent}
		return f
	})
}
