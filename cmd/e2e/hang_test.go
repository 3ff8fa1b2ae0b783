package e2e

import (
	"slices"
	"strings"
	"syscall"
	"testing"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// pidOf gives the process id that a run's trainer registered with.
func (h *house) pidOf(run string) int {
	h.t.Helper()
	for _, e := range h.events(run) {
		if registered := e.GetTrainerRegistered(); registered != nil {
			return int(registered.GetPid())
		}
	}
	h.t.Fatalf("run %s has no registered trainer", run)
	return 0
}

// hangs gives a run's incidents of the kind hang.
func hangs(r *controlv1.GetRunResponse) (found []*controlv1.Incident) {
	for _, i := range r.Incidents {
		if i.Kind == "hang" {
			found = append(found, i)
		}
	}
	return found
}

// TestHang stops a trainer as a dead collective would. The agent says that no
// step finishes, and that becomes one incident that somebody is told of. When
// training goes on the incident is over, and nothing is found a second time.
func TestHang(t *testing.T) {
	h := open(t, "", "")
	const run = "stands-still"
	h.train(run, "--steps", "900", "--pace", "2ms")
	h.await(run, func(r *controlv1.GetRunResponse) bool { return r.Run.Step > 200 })
	pid := h.pidOf(run)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })

	found := hangs(h.await(run, func(r *controlv1.GetRunResponse) bool {
		all := hangs(r)
		return len(all) == 1 && len(all[0].Notifications) > 0
	}))[0]
	if found.Severity != commonv1.Severity_SEVERITY_CRITICAL || found.State != controlv1.IncidentState_INCIDENT_STATE_FIRING {
		t.Errorf("the incident is %v and %v", found.Severity, found.State)
	}
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	r := h.await(run, succeeded)
	all := hangs(r)
	if len(all) != 1 || all[0].State != controlv1.IncidentState_INCIDENT_STATE_RESOLVED || len(all[0].Findings) != 1 {
		t.Fatalf("incidents of the hang: %v", all)
	}
	if !slices.ContainsFunc(all[0].Timeline, func(e *controlv1.TimelineEntry) bool {
		return e.Action == "resolved" && strings.Contains(e.Text, "seen no more")
	}) {
		t.Errorf("the timeline does not say why it is over: %v", all[0].Timeline)
	}
	var ticks int
	for _, e := range h.events(run) {
		if e.GetTick() != nil {
			ticks++
		}
	}
	if ticks == 0 || ticks > 30 {
		t.Errorf("%d ticks, want a few", ticks)
	}
}
