package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/internal/site"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// exposed reads the agent's /metrics: the value of each series by its line.
func exposed(s *site.Site) map[string]float64 {
	response, err := http.Get("http://" + s.Metrics + "/metrics")
	if err != nil {
		return nil
	}
	defer func() { _ = response.Body.Close() }()
	body, _ := io.ReadAll(response.Body)
	all := map[string]float64{}
	for line := range strings.Lines(string(body)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "} "); ok {
			all[name+"}"], _ = strconv.ParseFloat(value, 64)
		}
	}
	return all
}

// until waits for a condition as long as a test may take.
func (h *house) until(what string, holds func() bool) {
	h.t.Helper()
	for !holds() {
		select {
		case <-h.ctx.Done():
			h.t.Fatalf("waited in vain for %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// TestHungGPU has a call to one of two simulated GPUs hang: the control plane is
// told which, the other collectors keep their interval and the other GPU is
// measured all the while, and when the call returns so is this one.
func TestHungGPU(t *testing.T) {
	const (
		interval = 200 * time.Millisecond
		collects = `vigil_agent_collect_seconds_count{collector="host"}`
		stuck    = `vigil_gpu_stuck{gpu="1"}`
		status   = `vigil_agent_collector_up{collector="nvml",status="stuck"}`
	)
	script := filepath.Join(t.TempDir(), "script.yaml")
	if err := os.WriteFile(script, []byte("version: 1\nevents:\n- {at: 6s, for: 5s, gpus: [1], hang: true}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := open(t, "", fmt.Sprintf(`gpu: "simulated=2xH100,script=%s"
collectors:
  kernel: {off: true}
  host: {interval: %s}
  nvml: {interval: %s, settings: {hang_after: 400ms}}
`, script, interval, interval))
	node, err := h.AwaitNode(h.ctx)
	if err != nil {
		t.Fatal(err)
	}
	var began time.Time
	var before map[string]float64
	h.until("the hang", func() bool {
		before, began = exposed(h.Site), time.Now()
		return before[stuck] == 1 && before[status] == 1
	})
	nodes := controlv1.NewNodeServiceClient(h.Conn())
	h.until("the finding", func() bool {
		got, err := nodes.GetNode(h.ctx, &controlv1.GetNodeRequest{Node: node.Name})
		return err == nil && len(got.Incidents) == 1 && got.Incidents[0].Kind == "device-stuck" && strings.Contains(got.Incidents[0].Summary, "GPU 1")
	})
	var during map[string]float64
	var ended time.Time
	h.until("collections of the host in the meantime", func() bool {
		now := exposed(h.Site)
		if now[stuck] != 1 {
			return true
		}
		during, ended = now, time.Now()
		return during[collects]-before[collects] >= 15 && now[`vigil_gpu_power_watts{gpu="0"}`] > 0
	})
	// A machine that is loaded three times over is late with some; one whose
	// collectors wait for each other would have made none.
	made, due := during[collects]-before[collects], ended.Sub(began).Seconds()/interval.Seconds()
	t.Logf("the host was measured %.0f times while GPU 1 hung; %.1f were due in %s", made, due, ended.Sub(began).Round(time.Millisecond))
	if during[`vigil_gpu_power_watts{gpu="0"}`] == 0 || during[`vigil_gpu_power_watts{gpu="1"}`] != 0 {
		t.Error("of the two GPUs not the one that answers is measured")
	}
	if made < due/4 {
		t.Errorf("the host was measured %.0f times, and %.0f were due", made, due)
	}

	h.until("the GPU to answer again", func() bool {
		now := exposed(h.Site)
		return now[stuck] == 0 && now[`vigil_gpu_power_watts{gpu="1"}`] > 0 && now[`vigil_agent_collector_up{collector="nvml",status="ok"}`] == 1
	})
	if stdout, _, _ := h.agentctl("get", "events", "--node", node.Name); strings.Count(stdout, "GPU 1 does not answer") != 1 {
		t.Errorf("get events --node:\n%s", stdout)
	}
}

// TestControlPlaneSetsCollectors has the control plane's configuration switch a
// collector of the agent's off and another to a shorter interval, and then, when it
// is read again, another one off: at once, in the session that there is.
func TestControlPlaneSetsCollectors(t *testing.T) {
	h := open(t, "ingest: {collectors: {tasks: {off: true}, host: {interval: 100ms}}}\n", "collectors:\n  host: {interval: 10m}\n")
	collects := func(now map[string]float64, kind string) bool {
		_, is := now[fmt.Sprintf(`vigil_agent_collector_up{collector=%q,status="ok"}`, kind)]
		return is
	}
	h.until("the control plane's settings", func() bool {
		now := exposed(h.Site)
		return !collects(now, "tasks") && now[`vigil_agent_collect_seconds_count{collector="host"}`] >= 10
	})
	path := h.Path("vigil-controlplane.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.ReplaceAll(text, []byte("tasks: {off: true}"), []byte("process_memory: {off: true}, nvml: {interval: 2s}"))
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(h.controlPlane.PID(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	h.until("other settings", func() bool {
		now := exposed(h.Site)
		return collects(now, "tasks") && !collects(now, "process_memory") && now[`vigil_agent_settings_total{result="taken"}`] == 2
	})
	node, err := h.AwaitNode(h.ctx)
	if err != nil {
		t.Fatal(err)
	}
	h.until("what agentctl shows", func() bool {
		stdout, _, _ := h.agentctl("describe", "node", node.Name)
		return strings.Contains(stdout, "host every 100ms; nvml every 2s; process_memory off")
	})
}
