package nvml

import (
	"io"
	"os"
	"testing"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/testkit"
)

// TestThisMachine runs against what the machine has: a driver with GPUs, or
// nothing, and then nothing is what the collector says.
func TestThisMachine(t *testing.T) {
	c, err := Kind.Build(Kind.Defaults(), collect.Deps{Log: testkit.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	status, err := c.Collect(t.Context(), func(s metric.Sample) {
		seen[s.Def.Name] = true
		t.Logf("%s%v = %v", s.Def.Name, s.Labels, s.Value)
	})
	if closer, ok := c.(io.Closer); ok {
		defer func() {
			if err := closer.Close(); err != nil {
				t.Error(err)
			}
		}()
	}
	if err != nil {
		t.Fatalf("Collect = %s, %v", status, err)
	}
	if _, missing := os.Stat("/dev/nvidiactl"); missing != nil {
		if status != collect.Unsupported || len(seen) != 0 {
			t.Errorf("without a driver: status %s, samples %v", status, seen)
		}
		return
	}
	if status == collect.Ok && !seen[metric.GPUMemoryTotal.Name] {
		t.Errorf("status %s, samples %v", status, seen)
	}
}
