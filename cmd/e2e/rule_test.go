package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestARuleOfTheSitesOwn holds that a rule file's alert about a run is a finding
// and an incident while it fires, and is over when it does not.
func TestARuleOfTheSitesOwn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rules.yml")
	text := `groups:
- name: site
  interval: 1s
  rules:
  - alert: StillEarly
    expr: vigil_run_step{run="ruled"} < 1000
    labels: {severity: warning}
    annotations: {summary: "step {{ $value }} of run {{ $labels.run }}"}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	h := open(t, "metrics: {rule_files: [\""+file+"\"]}\n", "")
	p := h.train("ruled", "--steps", "2000", "--pace", "4ms")
	t.Cleanup(p.Kill)
	list := func(what string) string {
		out, errText, code := h.agentctl("get", what, "-o", "json")
		if code != 0 {
			t.Fatalf("get %s: %s", what, errText)
		}
		return out
	}
	h.until("the finding", func() bool { return strings.Contains(list("findings"), `"StillEarly"`) })
	var found any
	if err := json.Unmarshal([]byte(list("findings")), &found); err != nil {
		t.Fatal(err)
	}
	firing := list("incidents")
	if !strings.Contains(firing, "StillEarly") || !strings.Contains(firing, "of run ruled") {
		t.Errorf("the incidents are %s", firing)
	}
	h.until("its end", func() bool {
		all := list("incidents")
		return strings.Contains(all, "StillEarly") && strings.Contains(all, "INCIDENT_STATE_RESOLVED") && !strings.Contains(all, "INCIDENT_STATE_FIRING")
	})
	if err := p.Wait(h.ctx); err != nil {
		t.Error(err)
	}
	if n := strings.Count(list("findings"), `"StillEarly"`); n != 1 {
		t.Errorf("%d findings of the rule, want 1", n)
	}
}
