package supervise

import (
	"path/filepath"
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

// Of a command that prints some of its steps it is not known at once how often,
// and evaluations that print something else are no hang.
func TestPrintedStepsAreWaitedForWithPatience(t *testing.T) {
	start := time.Now()
	p := &pulse{}
	h := newHealth(Defaults(), 0, filepath.Join(t.TempDir(), "none"), start, p)
	at := func(minutes int) finding { return h.look(start.Add(time.Duration(minutes) * time.Minute)) }
	for i, minutes := range []int{0, 20, 40, 60} {
		p.stepped(int64(i + 1))
		if f := at(minutes); f.hang != "" {
			t.Errorf("minute %d: %s", minutes, f.hang)
		}
	}
	p.printed.Store(start.Add(90 * time.Minute).UnixNano()) // an evaluation's progress
	if f := at(60 + 200); f.hang != "" {
		t.Errorf("ten times the longest pause have not passed since it printed: %s", f.hang)
	}
	if f := at(90 + 201); !strings.Contains(f.hang, "after step 4") {
		t.Errorf("they have: %+v", f)
	}
}

func TestWhoseProcessesRunElsewhere(t *testing.T) {
	for want, commands := range map[bool][][]string{
		true:  {{"/usr/bin/srun", "train.sh"}, {"mpirun", "-n", "2", "train"}, {"ssh", "gpu-01"}},
		false: {{"python", "train.py"}, {"torchrun", "train.py"}, {"./srun-train.sh"}, nil},
	} {
		for _, command := range commands {
			if got := RunsElsewhere(command, []string{"HOME=/", "SLURM_CONF=/x"}); got != want {
				t.Errorf("%v: %v, want %v", command, got, want)
			}
		}
	}
	if !RunsElsewhere([]string{"sh", "train.sh"}, []string{"SLURM_JOB_ID=7"}) {
		t.Error("in a job of a scheduler's a script may start anything elsewhere")
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
