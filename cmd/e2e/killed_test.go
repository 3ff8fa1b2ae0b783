package e2e

import (
	"testing"
	"time"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const killedSteps = 3000

// TestKilledPartsLoseAndDoubleNothing kills the control plane and the agent in
// the middle of a run, several times, and counts the run's events afterwards.
func TestKilledPartsLoseAndDoubleNothing(t *testing.T) {
	for name, tc := range map[string]struct {
		run  string
		kill func(h *house)
	}{
		"control plane": {"killed-control-plane", func(h *house) {
			h.controlPlane.Kill()
			time.Sleep(100 * time.Millisecond)
			h.startControlPlane()
		}},
		"agent": {"killed-agent", func(h *house) {
			h.agent.Kill()
			p, err := h.Agent(h.ctx, noKernel)
			if err != nil {
				h.t.Fatal(err)
			}
			h.agent = p
		}},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, "", "")
			p := h.train(tc.run, "--steps", "3000", "--pace", "1ms")
			for n := range int64(4) {
				h.await(tc.run, func(r *controlv1.GetRunResponse) bool { return r.Run.Step > n*killedSteps/5 })
				tc.kill(h)
			}
			if err := p.Wait(h.ctx); err != nil {
				t.Fatalf("training noticed: %v", err)
			}
			run := h.await(tc.run, succeeded)
			if len(run.Attempts) != 1 {
				t.Errorf("%d attempts, want 1: training noticed", len(run.Attempts))
			}
			count(t, h.events(tc.run), name == "agent")
		})
	}
}

// count asks for each step once. While the agent is away the trainer keeps
// what its bounded queue holds, so with a killed agent the queue's size, not a
// guarantee, is why nothing is missing here.
func count(t *testing.T, events []*commonv1.Event, agentKilled bool) {
	t.Helper()
	ids, steps := map[string]int{}, map[int64]int{}
	for _, e := range events {
		ids[e.EventId]++
		if s := e.GetStep(); s != nil {
			steps[s.Step]++
		}
	}
	doubled := 0
	for _, n := range ids {
		doubled += n - 1
	}
	missing, repeated := 0, 0
	for step := int64(1); step <= killedSteps; step++ {
		switch n := steps[step]; {
		case n == 0:
			missing++
		case n > 1:
			repeated += n - 1
		}
	}
	t.Logf("%d events, %d doubled; %d steps, %d missing, %d repeated", len(events), doubled, len(steps), missing, repeated)
	if doubled > 0 || missing > 0 {
		t.Errorf("%d events doubled, %d steps missing", doubled, missing)
	}
	// A report whose answer was lost with the agent is sent again under the
	// same event ids; the ids above are what must not repeat.
	if repeated > 0 && !agentKilled {
		t.Errorf("%d steps repeated", repeated)
	}
}
