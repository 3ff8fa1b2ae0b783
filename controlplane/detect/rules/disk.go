package rules

import (
	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// DiskFullSettings says when a file system is full.
type DiskFullSettings struct {
	// Left is the share of space or of inodes that counts as nothing left.
	Left float64 `yaml:"left"`
	// Clear is the share from which on it is not full any more.
	Clear float64 `yaml:"clear"`
}

// DiskHigh finds file systems that are nearly full.
//
// Method: the share of space that is not available, or of inodes that are not
// free, is at Limit (default 0.95) for Hold seconds (default 60), and over below
// Clear (default 0.93). A warning.
//
// What it confuses: large file systems of which 5 % are many terabytes.
func DiskHigh(set ThresholdSettings) detect.NodeRule {
	return detect.NodeRule{Code: "disk-high", Title: "Disk nearly full", New: func() detect.NodeDetector {
		return &disk{verdict: func(used float64) detect.Verdict { return set.verdict(used, warning) },
			text: "File system %s of %s is %.1f %% full."}
	}}
}

// DiskFull finds file systems on which nothing can be written any more.
//
// Method: at most Left (default 0.005) of the space or of the inodes is left;
// over from Clear (default 0.01) on. Critical: checkpoints and logs fail now.
//
// What it confuses: nothing known; read-only images are not in a report.
func DiskFull(set DiskFullSettings) detect.NodeRule {
	return detect.NodeRule{Code: "disk-full", Title: "Disk full", Explains: []string{kindCrash, kindHang}, New: func() detect.NodeDetector {
		return &disk{verdict: func(used float64) detect.Verdict {
			v := detect.Verdict{Fine: 1-used >= set.Clear}
			if 1-used <= set.Left {
				v.Severity = critical
			}
			return v
		}, text: "File system %s of %s is full (%.1f %%): nothing can be written there."}
	}}
}

// disk judges how full file systems are.
type disk struct {
	verdict func(used float64) detect.Verdict
	text    string
	mounts  parts[detect.Problem]
}

// Observe takes the node's next event.
func (d *disk) Observe(event *commonv1.Event, n *detect.Node) {
	for i, fs := range event.GetNodeReport().GetFileSystems() {
		if fs.GetSizeBytes() <= 0 {
			continue
		}
		p := d.mounts.of(i, fs.GetMount(), func() *detect.Problem { return n.Problem(fs.GetMount()) })
		used := 1 - float64(fs.GetAvailableBytes())/float64(fs.GetSizeBytes())
		if fs.GetInodes() > 0 {
			used = max(used, 1-float64(fs.GetInodesFree())/float64(fs.GetInodes()))
		}
		p.Judge(n, d.verdict(used), func() *controlv1.Finding {
			f := n.Finding(fs.GetMount(), d.text, fs.GetMount(), n.Name, 100*used)
			f.Evidence = map[string]float64{"ratio": used, "available_bytes": float64(fs.GetAvailableBytes()), "inodes_free": float64(fs.GetInodesFree())}
			return f
		})
	}
}
