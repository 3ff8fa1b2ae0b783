package supervise

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vigil-ml/vigil/internal/testkit/slurm"
)

// gpuFails is a command whose GPU fails, and that is tried no more.
func gpuFails(t *testing.T, drain bool) *started {
	t.Helper()
	s := supervise(t, func(c *Config) { c.DrainNode, c.Policy.MaxRestarts, c.RequeueExitCode = drain, 0, 85 }, "sh", "-c", "echo GPU is lost; exit 1")
	s.wait()
	if s.result.ExitCode != 85 {
		t.Errorf("result is %+v, want to be queued again", s.result)
	}
	return s
}

func TestANodeWhoseGPUFailsIsDrained(t *testing.T) {
	cluster := slurm.Start(t)
	for _, entry := range cluster.Environ {
		name, value, _ := strings.Cut(entry, "=")
		t.Setenv(name, value)
	}
	t.Setenv(nodeVariable, slurm.Node)
	gpuFails(t, false)
	if state := cluster.State(); state != "idle" {
		t.Errorf("nobody asked for it, and the node is %s", state)
	}
	s := gpuFails(t, true)
	about, err := cluster.Run("scontrol", "show", "node", slurm.Node)
	if err != nil || !strings.Contains(about, "DRAIN") || !strings.Contains(about, "Reason=vigil: gpu_fault of run run-1") {
		t.Errorf("the node: %s, %v", about, err)
	}
	if want := "node " + slurm.Node + " is drained"; !strings.Contains(s.result.Explanation, want) {
		t.Errorf("explanation is %q, want %q", s.result.Explanation, want)
	}
}

func TestOnlyANodeIsDrained(t *testing.T) {
	dir := t.TempDir()
	said := filepath.Join(dir, "said")
	script := "#!/bin/sh\nprintf '%s|' \"$@\" > " + said + "\nexit ${SCONTROL_EXIT:-0}\n"
	if err := os.WriteFile(filepath.Join(dir, "scontrol"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	for node, want := range map[string]string{
		"gpu-07.cluster":      "update|NodeName=gpu-07.cluster|State=DRAIN|Reason=vigil: gpu_fault of run run-1|",
		"":                    "",
		"n1 State=DOWN":       "",
		"-x":                  "",
		"n[1-99]":             "",
		"n1,n2":               "",
		"ALL\nNodeName=other": "",
	} {
		_ = os.Remove(said)
		t.Setenv(nodeVariable, node)
		s := gpuFails(t, true)
		got, _ := os.ReadFile(said)
		if string(got) != want {
			t.Errorf("node %q: scontrol was told %q, want %q", node, got, want)
		}
		if want == "" && !strings.Contains(s.result.Explanation, "could not be drained") {
			t.Errorf("node %q: explanation is %q", node, s.result.Explanation)
		}
	}
	t.Setenv(nodeVariable, "n1")
	t.Setenv("SCONTROL_EXIT", "1")
	if s := gpuFails(t, true); !strings.Contains(s.result.Explanation, "could not be drained") {
		t.Errorf("scontrol fails: %q", s.result.Explanation)
	}
}
