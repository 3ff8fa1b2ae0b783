package e2e

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// A script that knows nothing of Vigil, as nanoGPT prints. The first attempt stands still
// after some steps; the second makes them all.
const zeroCode = `
import os, sys, time
first = os.environ["VIGIL_ATTEMPT"] == "0"
for i in range(0, 400, 10):
    print(f"iter {i}: loss {8 / (1 + i / 50):.4f}, time 20.00ms, mfu 10.07%")
    time.sleep(0.02)
    if first and i == 100:
        time.sleep(1000)
`

// The metrics of its processes, its loss, its hang, and the restart: all without a
// line of the SDK.
func TestZeroCode(t *testing.T) {
	python := testkit.Require(t, "python3")
	h := open(t, "", "collectors:\n  kernel: {off: true}\n  process: {interval: 500ms}\n")
	const run = "no-sdk"
	p, err := h.SuperviseWith(run, []string{"--hang-after", "3s"}, nil, python, "-c", zeroCode)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	h.await(run, func(r *controlv1.GetRunResponse) bool { return r.Run.Step >= 50 })
	testkit.Eventually(t, "metrics of the script's processes", func() bool {
		return strings.Contains(scrape(t, "http://"+h.Metrics+"/metrics"), `vigil_process_resident_bytes{run="no-sdk",rank="0"}`)
	})
	r := h.await(run, succeeded)
	if r.Run.Step < 390 {
		t.Errorf("the run is at step %d", r.Run.Step)
	}
	at := slices.IndexFunc(r.Incidents, func(i *controlv1.Incident) bool { return i.Kind == "failed" })
	if at < 0 {
		t.Fatalf("the hang is no incident: %v", r.Incidents)
	}
	i := r.Incidents[at]
	if i.State != controlv1.IncidentState_INCIDENT_STATE_RESOLVED || !strings.Contains(i.Summary, "(hang) and another follows") {
		t.Errorf("the incident is %v: %s", i.State, i.Summary)
	}
	for _, e := range h.events(run) {
		if end := e.GetAttemptEnded(); end != nil && e.Attempt == 0 && end.Failure != commonv1.FailureKind_FAILURE_KIND_HANG {
			t.Errorf("attempt 0 ended by %v: %q", end.Failure, end.Evidence)
		}
	}
}

// A program at fault: the supervisor gives up at the same exception, and somebody is
// told. That the run ended does not end the incident.
func TestPage(t *testing.T) {
	python := testkit.Require(t, "python3")
	h := open(t, "", "")
	const run = "at-fault"
	p, err := h.Supervise(run, nil, python, "-c", "raise ValueError('wrong')")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	r := h.await(run, func(r *controlv1.GetRunResponse) bool {
		return r.Run.State == controlv1.RunState_RUN_STATE_FAILED && len(r.Incidents) == 1 && len(r.Incidents[0].Notifications) > 0
	})
	i := r.Incidents[0]
	if i.Kind != "failed" || i.Severity != commonv1.Severity_SEVERITY_CRITICAL || i.State != controlv1.IncidentState_INCIDENT_STATE_FIRING {
		t.Errorf("the incident is %s, %v and %v", i.Kind, i.Severity, i.State)
	}
	if want := "(user error) and no other follows: the same exception 2 times"; !strings.Contains(i.Summary, want) {
		t.Errorf("the summary is %q, want %q", i.Summary, want)
	}
}

func scrape(t *testing.T, url string) string {
	t.Helper()
	client := http.Client{Timeout: 10 * time.Second}
	resp, err := client.Get(url)
	if err != nil {
		return ""
	}
	defer func() { _ = resp.Body.Close() }()
	text, _ := io.ReadAll(resp.Body)
	return string(text)
}
