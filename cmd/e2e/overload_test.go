package e2e

import (
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/vigil-ml/vigil/internal/site"
)

// TestOverloadRefusesAndLosesNothing gives a control plane that may have 72 MiB
// the samples of more series than fit. It refuses samples, goes on with events,
// and stays alive; all events are there once in the end.
//
// It is a target of its own: on a machine that does much else beside, the
// sessions alone may come near the limit, and the collector has no room to work.
func TestOverloadRefusesAndLosesNothing(t *testing.T) {
	if os.Getenv("VIGIL_OVERLOAD") == "" {
		t.Skip("make test-overload runs it")
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	s, err := site.Plan(filepath.Join(t.TempDir(), "site"), os.Getenv(binVariable))
	if err != nil {
		t.Fatal(err)
	}
	h := &house{Site: s, t: t, ctx: ctx, controlMore: "memory_limit_bytes: 75497472\n"}
	t.Cleanup(h.close)
	h.startControlPlane()

	bench := exec.CommandContext(ctx, filepath.Join(s.Bin, "agentctl"), "bench", "fleet", "--agents", "250", "--gpus", "8", "--metrics", "20",
		"--interval", "200ms", "--reports", "1s", "--duration", "6s",
		"--agents-address", s.Agents, "--metrics-url", "http://"+s.API+"/metrics")
	out, err := bench.CombinedOutput()
	t.Logf("agentctl bench fleet:\n%s", out)
	if err != nil { // it counts the events, at the agents and at the server
		t.Errorf("agentctl bench fleet: %v", err)
	}
	select {
	case <-h.controlPlane.Done():
		t.Fatal("the control plane died")
	default:
	}
	metrics := h.get("/metrics")
	limitBytes, live := metricOf(t, metrics, `vigil_control_memory_limit_bytes`), metricOf(t, metrics, `vigil_control_memory_live_bytes`)
	refused, stored := metricOf(t, metrics, `vigil_control_refused_total\{work="samples"\}`), metricOf(t, metrics, `vigil_control_samples_total\{result="stored"\}`)
	t.Logf("%.0f of %.0f MiB in use; %.0f samples stored, %.0f refusals; readyz:\n%s", live/(1<<20), limitBytes/(1<<20), stored, refused, h.get("/readyz"))
	if refused == 0 || stored == 0 {
		t.Error("the load was none, or too much from the start")
	}
	if live > limitBytes {
		t.Errorf("%.0f bytes are in use, more than the limit", live)
	}
}

// get gives what the operators' port answers, whatever its status.
func (h *house) get(path string) string {
	h.t.Helper()
	request, err := http.NewRequestWithContext(h.ctx, http.MethodGet, "http://"+h.API+path, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	if err := h.Authorize(request); err != nil {
		h.t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return string(text)
}

func metricOf(t *testing.T, text, series string) float64 {
	t.Helper()
	found := regexp.MustCompile(`(?m)^` + series + ` (\S+)$`).FindStringSubmatch(text)
	if found == nil {
		t.Fatalf("metric %s is not there", series)
	}
	value, err := strconv.ParseFloat(found[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return value
}
