package supervise

import (
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
	"github.com/vigil-ml/vigil/trainer/trainertest"
)

// What users of other systems complain about must be impossible here. Each test
// is named after a complaint; the numbers are of issues where it was made.

// Megatron-LM #5281: a corrupt state, NaN three steps after loading, 44 identical
// cycles of 90 seconds.
func TestComplaintIdenticalCyclesGoOnForEver(t *testing.T) {
	s := supervise(t, func(c *Config) { c.Policy.MaxRestarts = 1000 }, "sh", "-c",
		`echo 3 > $VIGIL_EXIT_FILE.step; echo "found NaN in local forward loss calculation"; exit 1`)
	s.wait()
	if s.result.Attempts != 3 || !strings.Contains(s.result.Explanation, "same failure 3 times") {
		t.Errorf("after %d attempts: %s", s.result.Attempts, s.result.Explanation)
	}
}

// pytorch #68258, #119856: children are killed before the grace period is over,
// whatever it was set to.
func TestComplaintTheGracePeriodIsNotHonoured(t *testing.T) {
	for _, grace := range []time.Duration{400 * time.Millisecond, 1200 * time.Millisecond} {
		s := supervise(t, func(c *Config) { c.Grace, c.KillWait = grace, time.Hour }, "sh", "-c", deaf)
		s.read("ready")
		began := time.Now()
		s.signals <- syscall.SIGTERM
		s.wait()
		if share := float64(time.Since(began)) / float64(grace); share < 0.95 {
			t.Errorf("of a grace of %s a command that still saves had %.2f", grace, share)
		}
	}
}

// pytorch #154849: SIGUSR1 and SIGUSR2 do not reach the training process.
func TestComplaintSIGUSR1IsNotForwarded(t *testing.T) {
	s := supervise(t, nil, "sh", "-c", `trap 'echo usr1; exit 0' USR1; echo ready; while :; do sleep 0.01; done`)
	s.read("ready")
	s.signals <- syscall.SIGUSR1
	if out := s.wait(); out != "usr1\n" {
		t.Errorf("the command heard %q", out)
	}
}

// KempnerForge #177: the processes that load data die of the signal first, and
// the save fails for want of them.
func TestComplaintDataLoadersDieBeforeTheSave(t *testing.T) {
	s := supervise(t, nil, "sh", "-c", `sh -c 'trap "" INT; while :; do sleep 0.01; done' & loader=$!
		trap 'kill -0 $loader && echo the loader lives; kill -9 $loader; exit 0' TERM; echo ready; while :; do sleep 0.01; done`)
	s.read("ready")
	s.signals <- syscall.SIGTERM
	if out := s.wait(); out != "the loader lives\n" {
		t.Errorf("output %q", out)
	}
}

// spd #677, #741: none of six preemptions saved, as nobody polled the flag in
// warm-up and evaluation. A command that does not act on the order loses no more
// than what came after its last checkpoint, and the result says which that is.
func TestComplaintNobodyPollsTheFlag(t *testing.T) {
	agent := trainertest.New(t)
	var asked atomic.Bool
	agent.OnRequest = func(*trainerv1.RequestCheckpointRequest) (string, error) {
		asked.Store(true)
		return "wanted", nil
	}
	agent.OnStanding = func(r *trainerv1.GetStandingRequest) *trainerv1.GetStandingResponse {
		out := &trainerv1.GetStandingResponse{Last: &trainerv1.CheckpointStanding{
			CheckpointId: "periodic", Step: 40, State: commonv1.CheckpointState_CHECKPOINT_STATE_VERIFIED}}
		if r.GetCheckpointId() == "wanted" {
			out.Asked = &trainerv1.CheckpointStanding{CheckpointId: "wanted", State: commonv1.CheckpointState_CHECKPOINT_STATE_DIRECTED}
		}
		return out
	}
	agent.Start(t)
	s := supervise(t, func(c *Config) { c.Socket, c.Grace = agent.Socket, 400*time.Millisecond }, "sh", "-c", deaf)
	s.read("ready")
	s.signals <- syscall.SIGTERM
	s.wait()
	if want := "the last one is checkpoint periodic of step 40, verified"; !asked.Load() || !strings.Contains(s.result.Explanation, want) {
		t.Errorf("asked %v, result %+v; want %q", asked.Load(), s.result, want)
	}
}

// torchtitan #2899, torchft #329: timeouts must be put into an order by hand.
// Whatever single number is given, the others follow from it in their order.
func TestComplaintTimeoutsMustBeOrderedByHand(t *testing.T) {
	for grace := time.Millisecond; grace < 48*time.Hour; grace *= 3 {
		for kill := time.Duration(0); kill < 48*time.Hour; kill = 3*kill + time.Millisecond {
			c := Defaults()
			c.Grace, c.KillWait = grace, kill
			if got := c.killWait(grace); got < 0 || got >= grace {
				t.Fatalf("grace %s, kill wait %s: SIGTERM would come %s before the end", grace, kill, got)
			}
		}
	}
	began := time.Now()
	for pause := time.Second; pause < 48*time.Hour; pause *= 2 {
		h := newHealth(Defaults(), 0, "", began, &pulse{})
		h.known, h.longest = true, pause
		if h.patience() <= pause {
			t.Errorf("a pause of %s is usual, and a hang after %s", pause, h.patience())
		}
	}
}
