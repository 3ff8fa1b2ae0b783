package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const ofTheSite = `groups:
- name: site
  interval: 1s
  rules:
  - alert: StillEarly
    expr: vigil_run_step{run="ruled"} < 1000
    labels: {severity: warning}
    annotations: {summary: "step {{ $value }} of run {{ $labels.run }}"}
`

// TestARuleOfTheSitesOwn holds that a rule file's alert about a run is a finding
// and an incident while it fires, and is over when it does not. Other incidents
// there may be.
func TestARuleOfTheSitesOwn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(file, []byte(ofTheSite), 0o600); err != nil {
		t.Fatal(err)
	}
	h := open(t, "metrics: {rule_files: [\""+file+"\"]}\n", "")
	p := h.train("ruled", "--steps", "2000", "--pace", "4ms")

	findings := func() []*controlv1.FindingRecord {
		out, err := controlv1.NewFindingServiceClient(h.Conn()).ListFindings(h.ctx, &controlv1.ListFindingsRequest{Kind: "StillEarly"})
		if err != nil {
			t.Fatal(err)
		}
		return out.Findings
	}
	// Rules are evaluated once a second; asking oftener only costs.
	slowly := func(holds func() bool) func() bool {
		return func() bool { time.Sleep(100 * time.Millisecond); return holds() }
	}
	h.until("the finding", slowly(func() bool { return len(findings()) > 0 }))
	found := findings()[0]
	if f := found.GetFinding(); f.GetRunId() != "ruled" || !strings.Contains(f.GetSummary(), "of run ruled") || f.GetEvidence()["value"] >= 1000 {
		t.Errorf("the finding is %v", f)
	}
	incident := func() *controlv1.Incident {
		out, err := controlv1.NewIncidentServiceClient(h.Conn()).GetIncident(h.ctx, &controlv1.GetIncidentRequest{IncidentId: found.GetIncidentId()})
		if err != nil {
			t.Fatal(err)
		}
		return out.Incident
	}
	if i := incident(); i.GetKind() != "StillEarly" || i.GetRunId() != "ruled" || i.GetLabels()["severity"] != "warning" {
		t.Errorf("its incident is %v", i)
	}
	h.until("its end", slowly(func() bool { return incident().GetState() == controlv1.IncidentState_INCIDENT_STATE_RESOLVED }))
	if err := p.Wait(h.ctx); err != nil {
		t.Error(err)
	}
	if n := len(findings()); n != 1 {
		t.Errorf("%d findings of the rule, want 1", n)
	}
}
