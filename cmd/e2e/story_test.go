package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestMainJob runs the demonstration as `make run` does, shorter.
func TestMainJob(t *testing.T) {
	out := t.TempDir()
	cmd := exec.CommandContext(t.Context(), filepath.Join(os.Getenv(binVariable), "agentctl"), "demo", "--out", out, "--steps", "1200")
	text, err := cmd.CombinedOutput()
	t.Logf("%s", text)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(out, "run-summary.json"))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if got["exact"] != true || got["digest_interrupted"] != got["digest_uninterrupted"] || got["digest_interrupted"] == "" {
		t.Errorf("not exact: %s", data)
	}
	// One thing went wrong, so one incident was opened; training that is well
	// opens none.
	if got["incidents"] != 1.0 {
		t.Errorf("%v incidents, want 1: %s", got["incidents"], data)
	}
	// Each part of the chain comes after the one that it needs.
	for _, pair := range [][2]string{
		{"detect_ms", "notify_ms"}, {"detect_ms", "command_ms"}, {"command_ms", "staged_ms"}, {"staged_ms", "durable_ms"},
		{"durable_ms", "verified_ms"}, {"staged_ms", "restarted_ms"}, {"restarted_ms", "resumed_ms"},
	} {
		before, _ := got[pair[0]].(float64)
		after, _ := got[pair[1]].(float64)
		if before <= 0 || after < before {
			t.Errorf("%s is %v and %s is %v", pair[0], before, pair[1], after)
		}
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if last := lines[len(lines)-1]; !strings.HasPrefix(last, "exact: ") {
		t.Errorf("the last line is %q", last)
	}
}
