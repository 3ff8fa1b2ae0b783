package host

import (
	"fmt"
	"os"
	"testing"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/internal/metric"
)

func TestProcessesInStateDAreCounted(t *testing.T) {
	dir := t.TempDir()
	for pid, state := range []string{1: "S", 2: "D", 3: "R", 4: "D"} {
		if state == "" {
			continue
		}
		if err := os.Mkdir(fmt.Sprintf("%s/%d", dir, pid), 0o700); err != nil {
			t.Fatal(err)
		}
		put(t, fmt.Sprintf("%s/%d/stat", dir, pid),
			fmt.Sprintf("%d (a D) %s 1 1 1 0 -1 4194304 101 0 0 0 1 0 0 0 20 0 17 0 5 0 0 1\n", pid, state))
	}
	put(t, dir+"/stat", "cpu  1 2 3 4\n")
	c, err := TasksKind.Build(&TasksConfig{Proc: dir}, collect.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	var got []float64
	status, err := c.Collect(t.Context(), func(s metric.Sample) { got = append(got, s.Value) })
	if status != collect.Ok || err != nil || len(got) != 1 || got[0] != 2 {
		t.Errorf("%s, %v: %v, want 2", status, err, got)
	}
}

func TestNoProcessAtAllIsNotNone(t *testing.T) {
	c, err := NewTasks(TasksConfig{Proc: t.TempDir()}, collect.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	status, err := c.Collect(t.Context(), func(s metric.Sample) { t.Errorf("emitted %v", s.Value) })
	if status != collect.Unknown || err == nil {
		t.Errorf("%s, %v", status, err)
	}
	if _, err := NewTasks(TasksConfig{Proc: "/nowhere"}, collect.Deps{}); err == nil {
		t.Error("NewTasks did not fail")
	}
}

func BenchmarkTasks(b *testing.B) {
	c, err := NewTasks(TasksConfig{Proc: "/proc"}, collect.Deps{})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Collect(b.Context(), func(metric.Sample) {}); err != nil {
			b.Fatal(err)
		}
	}
}
