package supervise

import (
	"strings"
	"testing"
	"time"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
	"github.com/vigil-ml/vigil/trainer/trainertest"
)

// hangs supervises a command that hangs once, without an SDK, until its second
// attempt ends well, and gives the evidence.
func hangs(t *testing.T, agent *trainertest.Agent, change func(*Config), command string) string {
	t.Helper()
	s := supervise(t, func(c *Config) {
		c.Socket = agent.Socket
		c.Health.Interval, c.KillWait = 20*time.Millisecond, 50*time.Millisecond
		change(c)
	}, "sh", "-c", `[ "$VIGIL_ATTEMPT" = 0 ] || exit 0; `+command)
	s.wait()
	end, _ := find(agent, (*commonv1.Event).GetAttemptEnded)
	if s.result.Attempts != 2 || end.GetFailure() != commonv1.FailureKind_FAILURE_KIND_HANG {
		t.Fatalf("result is %+v, the first end %v", s.result, end)
	}
	return strings.Join(end.GetEvidence(), "\n")
}

func TestACommandThatPrintsItsStepsHangs(t *testing.T) {
	agent := trainertest.New(t)
	agent.Start(t)
	got := hangs(t, agent, func(c *Config) { c.Health.HangAfter = 300 * time.Millisecond },
		`echo "iter 40: loss 6.2081, time 48.67ms, mfu 10.07%"; echo "iter 50: loss 6.1, time 48.67ms, mfu 10.07%"; sleep 1000`)
	if !strings.Contains(got, "after step 51") {
		t.Errorf("told by %s", got)
	}
	if first, _ := find(agent, (*commonv1.Event).GetStep); first.GetStep() != 41 {
		t.Errorf("the agent was told step %v", first)
	}
}

func TestACommandThatTellsNothingHangs(t *testing.T) {
	agent := trainertest.New(t)
	agent.Start(t)
	got := hangs(t, agent, func(c *Config) { c.Health.SilentAfter = 300 * time.Millisecond }, `echo loading; sleep 1000`)
	for _, want := range []string{"printed nothing", "CPU time", "no GPU was busy"} {
		if !strings.Contains(got, want) {
			t.Errorf("told by %s, want %q", got, want)
		}
	}
}

// Work that can be seen is no hang: what is printed, a processor or a disk or a
// GPU that is busy.
func TestACommandThatWorksDoesNotHang(t *testing.T) {
	agent := trainertest.New(t)
	busy := 0.9
	agent.OnStanding = func(*trainerv1.GetStandingRequest) *trainerv1.GetStandingResponse {
		return &trainerv1.GetStandingResponse{GpuUtilization: &busy}
	}
	agent.Start(t)
	for name, c := range map[string]struct{ socket, command string }{
		"it prints":            {"", `for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo $i; sleep 0.1; done`},
		"it computes":          {"", `end=$(($(date +%s%N) + 1200000000)); while [ $(date +%s%N) -lt $end ]; do :; done`},
		"it reads":             {"", `for i in 1 2 3 4 5 6 7 8 9 10 11 12; do head -c 200000 /dev/zero > /dev/null; sleep 0.1; done`},
		"its GPU is busy":      {agent.Socket, `sleep 1.2`},
		"nobody asked to look": {"", `sleep 1.2`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := supervise(t, func(config *Config) {
				config.Socket = c.socket
				config.Health.Interval = 50 * time.Millisecond
				if config.Health.SilentAfter = 600 * time.Millisecond; name == "nobody asked to look" {
					config.Health.SilentAfter = 0
				}
			}, "sh", "-c", c.command)
			s.wait()
			if s.result.Attempts != 1 || s.result.ExitCode != 0 {
				t.Errorf("result is %+v", s.result)
			}
		})
	}
}
