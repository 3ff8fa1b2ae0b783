package alert

import (
	"testing"

	"google.golang.org/protobuf/proto"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// TestTitleOfANode names the node and its GPU, and the run where one is hit.
func TestTitleOfANode(t *testing.T) {
	d := Delivery{Incident: &controlv1.Incident{
		Kind: "xid", Severity: commonv1.Severity_SEVERITY_CRITICAL, Node: "gpu-01", AffectedRuns: []string{"r", "q"},
		Findings: []*controlv1.Finding{{Node: "gpu-01", Gpu: proto.Uint32(3), Device: "GPU-abc", Problem: "xid/XID-79/gpu3"}},
	}}
	if got, want := d.Title(), "Critical: xid on gpu-01 GPU 3"; got != want {
		t.Errorf("title %q, want %q", got, want)
	}
	d.Incident.RunId = "r"
	if got, want := d.Title(), "Critical: xid on gpu-01 GPU 3, in run r"; got != want {
		t.Errorf("title %q, want %q", got, want)
	}
	want := map[string]string{"Run": "r", "Severity": "Critical", "Node": "gpu-01", "GPU": "3", "Device": "GPU-abc", "Runs": "r, q"}
	for _, field := range d.Fields() {
		if want[field.Name] != field.Text {
			t.Errorf("field %s is %q, want %q", field.Name, field.Text, want[field.Name])
		}
		delete(want, field.Name)
	}
	if len(want) > 0 {
		t.Errorf("fields that are missing: %v", want)
	}
}
