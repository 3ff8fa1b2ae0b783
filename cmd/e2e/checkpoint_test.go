package e2e

import (
	"strings"
	"syscall"
	"testing"
	"time"

	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// A complaint about other systems: an on-demand save is wanted and there is none
// (axolotl 3169, SimpleTuner 1816, alf 657). Here anybody may ask for one while a
// run trains, and is told each stage of it.
func TestComplaintNoSaveOnDemand(t *testing.T) {
	h := open(t, "", "")
	now := func(args ...string) (string, string, int) {
		return h.agentctl(append([]string{"checkpoint", "--now", "--wait", "--timeout", "5s"}, args...)...)
	}
	refused := func(what, stderr string, code int, says string) {
		t.Helper()
		if code == 0 || !strings.Contains(stderr, says) {
			t.Errorf("%s: exit %d, stderr %q, want an error with %q", what, code, stderr, says)
		}
	}

	_, stderr, code := now("--run", "nobody")
	refused("no such run", stderr, code, "nobody")

	p := h.train("live", "--steps", "1000000", "--pace", "2ms")
	h.await("live", func(r *controlv1.GetRunResponse) bool { return r.Run.Step > 0 })
	stdout, stderr, code := now("--run", "live")
	if code != 0 {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	at := -1
	for _, stage := range []string{"requested", "directed", "staged", "durable", "verified"} {
		i := strings.Index(stdout, stage)
		if i <= at {
			t.Errorf("stage %s is not behind the one before in:\n%s", stage, stdout)
		}
		at = i
	}
	// Without --run, the only run that trains is meant.
	if _, stderr, code := now(); code != 0 {
		t.Errorf("without --run: exit %d: %s", code, stderr)
	}

	// A trainer that is there and does not react, then one that is gone.
	pid := trainerPID(h, "live")
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	_, stderr, code = now("--run", "live")
	refused("stopped trainer", stderr, code, "live")
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	p.Kill()
	_, stderr, code = now("--run", "live")
	refused("dead trainer", stderr, code, "live")

	h.agent.Kill()
	awaitDisconnect(h)
	_, stderr, code = now("--run", "live")
	refused("no agent", stderr, code, "agent")

	h.controlPlane.Kill()
	_, stderr, code = now("--run", "live")
	refused("no control plane", stderr, code, h.API)
}

func awaitDisconnect(h *house) {
	h.t.Helper()
	for {
		out, err := controlv1.NewNodeServiceClient(h.Conn()).ListNodes(h.ctx, &controlv1.ListNodesRequest{})
		if err != nil {
			h.t.Fatal(err)
		}
		if out.Nodes[0].State == controlv1.NodeState_NODE_STATE_DISCONNECTED {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// trainerPID gives the process that registered last.
func trainerPID(h *house, run string) int {
	h.t.Helper()
	pid := 0
	for _, e := range h.events(run) {
		if r := e.GetTrainerRegistered(); r != nil {
			pid = int(r.Pid)
		}
	}
	if pid == 0 {
		h.t.Fatalf("no trainer of run %s registered", run)
	}
	return pid
}
