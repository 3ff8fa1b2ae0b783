package replay_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/vigil-ml/vigil/controlplane/detect/replay"
	"github.com/vigil-ml/vigil/controlplane/detect/rules"
)

// TestEventsOfNodes replays what a node said, a damaged line among it.
func TestEventsOfNodes(t *testing.T) {
	var trace strings.Builder
	for i := range 20 {
		fmt.Fprintf(&trace, `{"eventId":"e%d","time":"2026-03-01T03:%02d:00Z","node":"n1","nodeReport":{"intervalSeconds":60,`+
			`"memoryTotalBytes":"100","memoryAvailableBytes":"5"}}`+"\n", i, i)
	}
	trace.WriteString(`{"eventId":"x","time":"2026-03-01T03:20:00Z","node":"n1","nodeFault":{"kind":"FAULT_KIND_XID","code":79,"gpu":3,"later":1}}` + "\n")
	trace.WriteString(`{"eventId":"y","time":5}` + "\n")
	s := rules.Defaults()
	result, err := replay.Run("n1", strings.NewReader(trace.String()), rules.All(s), rules.Nodes(s.Nodes)...)
	if err != nil || result.Rows != 21 || result.Damaged != 1 || len(result.Detections) != 2 {
		t.Fatalf("%+v, %v", result, err)
	}
	for i, kind := range []string{"memory-high", "xid"} {
		if got := result.Detections[i].Finding; got.GetKind() != kind || got.GetNode() != "n1" || got.GetFindingId() == "" {
			t.Errorf("detection %d: %v", i, got)
		}
	}
}
