package supervise

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
	"github.com/vigil-ml/vigil/trainer/supervise/preempt"
	"github.com/vigil-ml/vigil/trainer/trainertest"
)

// ends gives the ends of attempts that the agent was told of.
func ends(agent *trainertest.Agent) (all []*commonv1.AttemptEnded) {
	for _, event := range agent.Events() {
		if e := event.GetAttemptEnded(); e != nil {
			all = append(all, e)
		}
	}
	return all
}

// traceback is a Python program's end, as sh says it.
const traceback = `cat >&2 <<'END'
Traceback (most recent call last):
  File "/home/u/train.py", line 12, in <module>
    main()
KeyError: 'batch 7'
END
exit 1`

func TestTheSameExceptionTwiceIsTheUsersError(t *testing.T) {
	agent := trainertest.New(t)
	agent.Start(t)
	s := supervise(t, func(c *Config) { c.Socket = agent.Socket }, "sh", "-c", traceback)
	s.wait()
	if s.result.Attempts != 2 || s.result.ExitCode != 1 || !strings.Contains(s.result.Explanation, "the program itself is at fault") {
		t.Errorf("result is %+v", s.result)
	}
	last := ends(agent)[1]
	if last.GetFailure() != commonv1.FailureKind_FAILURE_KIND_USER_ERROR || !last.GetRecovery().GetPage() ||
		!slices.ContainsFunc(last.GetEvidence(), func(e string) bool { return strings.Contains(e, "KeyError: 'batch 7' at train.py:12") }) {
		t.Errorf("the agent was told %v", last)
	}
}

func TestADecisionIsToldWithItsEvidence(t *testing.T) {
	agent := trainertest.New(t)
	agent.OnStanding = func(r *trainerv1.GetStandingRequest) *trainerv1.GetStandingResponse {
		if r.GetSince() == nil {
			return &trainerv1.GetStandingResponse{}
		}
		return &trainerv1.GetStandingResponse{Faults: []*commonv1.NodeFault{{
			Kind: commonv1.FaultKind_FAULT_KIND_XID, Code: 79, Severity: commonv1.FaultSeverity_FAULT_SEVERITY_CRITICAL,
			Title: "GPU has fallen off the bus", Gpu: proto.Uint32(2), Message: "NVRM: Xid (PCI:0000:3b:00): 79",
		}}}
	}
	agent.Start(t)
	s := supervise(t, func(c *Config) { c.Socket, c.Policy.MaxRestarts, c.RequeueExitCode = agent.Socket, 1, 99 },
		"sh", "-c", `echo "NCCL error in: a.cpp:1"; echo $VIGIL_ATTEMPT; exit $((3 + VIGIL_ATTEMPT))`)
	s.wait()
	all := ends(agent)
	if len(all) != 2 {
		t.Fatalf("%d attempts ended", len(all))
	}
	for _, want := range []string{"kernel log: GPU has fallen off the bus GPU 2", "NCCL error in: a.cpp:1", "exit code 3"} {
		if !slices.ContainsFunc(all[0].GetEvidence(), func(e string) bool { return strings.Contains(e, want) }) {
			t.Errorf("evidence is %q, want %q among it", all[0].GetEvidence(), want)
		}
	}
	if all[0].GetFailure() != commonv1.FailureKind_FAILURE_KIND_GPU_FAULT || !strings.HasPrefix(all[0].GetRecovery().GetDecision(), "gpu_fault: restart 1 of 1") {
		t.Errorf("the agent was told %v", all[0])
	}
	// The node is left: the scheduler is to find another.
	if s.result.ExitCode != 99 || !all[1].GetRecovery().GetExcludeNode() || !all[1].GetRecovery().GetPage() {
		t.Errorf("result %+v, recovery %v", s.result, all[1].GetRecovery())
	}
}

func TestAnAttemptIsAskedForChangesAndMayNotBeAbleTo(t *testing.T) {
	agent := trainertest.New(t)
	agent.Start(t)
	s := supervise(t, func(c *Config) { c.Socket, c.Policy.MaxRestarts = agent.Socket, 2 },
		"sh", "-c", `echo "[$VIGIL_RECOVERY]"; echo "training has diverged" >&2
		[ $VIGIL_ATTEMPT = 0 ] || echo '{"refused": ["the learning rate is fixed"]}' > $VIGIL_EXIT_FILE.recovery; exit $((VIGIL_ATTEMPT + 1))`)
	out := s.wait()
	want := "[]\n[{\"from\":\"earlier\",\"learning_rate_scale\":0.5}]\n[{\"from\":\"earlier\",\"learning_rate_scale\":0.25}]\n"
	if out != want {
		t.Errorf("attempts were asked for %s, want %s", out, want)
	}
	var asked []float64
	for _, event := range agent.Events() {
		if started := event.GetAttemptStarted(); started != nil {
			asked = append(asked, started.GetRecovery().GetLearningRateScale())
		}
	}
	if !slices.Equal(asked, []float64{0, 0.5, 0.25}) {
		t.Errorf("the agent was told of scales %v", asked)
	}
}

func TestAHangIsEndedWithItsStacks(t *testing.T) {
	t.Setenv(asChild, "hang after step 3")
	agent := trainertest.New(t)
	agent.Start(t)
	s := supervise(t, func(c *Config) {
		c.Socket, c.Policy.MaxRestarts, c.KillWait = agent.Socket, 0, 10*time.Second
		c.Health.Interval, c.Health.HangAfter = 5*time.Millisecond, 300*time.Millisecond
	}, os.Args[0])
	s.wait()
	end := ends(agent)[0]
	if end.GetFailure() != commonv1.FailureKind_FAILURE_KIND_HANG || end.GetSignal()+end.GetExitCode() == 0 || end.GetStep() != 3 {
		t.Errorf("the agent was told %v", end)
	}
	for _, want := range []string{"no step has finished for", "of CPU time meanwhile"} {
		if !slices.ContainsFunc(end.GetEvidence(), func(e string) bool { return strings.Contains(e, want) }) {
			t.Errorf("evidence is %q, want %q among it", end.GetEvidence(), want)
		}
	}
}

func TestLimitsEndTheRunAndAreNotTriedAgain(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Config)
		why    string
	}{
		"time":       {func(c *Config) { c.Limits.Training = 50 * time.Millisecond }, "limits.max_training_time_hours: 50ms are over"},
		"GPU memory": {func(c *Config) { c.Limits.GPUMemoryBytes = 4 << 30 }, "5368709120 bytes of GPU memory, 4294967296 are allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(asChild, "use much GPU memory")
			s := supervise(t, func(config *Config) {
				config.Health.Interval = 5 * time.Millisecond
				c.change(config)
			}, os.Args[0])
			s.wait()
			if s.result.ExitCode != exitLimit || s.result.Attempts != 1 || s.result.Outcome != commonv1.Outcome_OUTCOME_STOPPED || !strings.Contains(s.result.Explanation, c.why) {
				t.Errorf("result is %+v, want %s", s.result, c.why)
			}
		})
	}
}

func TestTheEndOfTheAllocationIsAPreemption(t *testing.T) {
	s := supervise(t, func(c *Config) {
		c.Grace, c.Limits.Allocation, c.RequeueExitCode = time.Second, 1050*time.Millisecond, 85
	},
		"sh", "-c", `trap 'echo saved; exit 0' TERM; while :; do sleep 0.01; done`)
	if out := s.wait(); out != "saved\n" || s.result.ExitCode != 85 || s.result.Outcome != commonv1.Outcome_OUTCOME_STOPPED {
		t.Errorf("output %q, result %+v", out, s.result)
	}
}

// oneNotice gives a notice once it is due.
type oneNotice struct {
	notice preempt.Notice
	due    chan struct{}
}

func (n *oneNotice) Name() string { return "cloud" }

func (n *oneNotice) Look(context.Context) (preempt.Notice, bool, error) {
	<-n.due
	return n.notice, true, nil
}

func TestACloudsNoticeHasTheRunSavedByItsDeadline(t *testing.T) {
	t.Setenv(asChild, "save and stop when told")
	agent := trainertest.New(t)
	requests := make(chan time.Duration, 4)
	agent.OnRequest = func(r *trainerv1.RequestCheckpointRequest) (string, error) {
		requests <- r.GetTimeout().AsDuration()
		agent.Order("d", &commonv1.CheckpointOrder{CheckpointId: "last", Reason: r.GetReason(), After: r.GetAfter()})
		return "last", nil
	}
	agent.Start(t)
	source := &oneNotice{due: make(chan struct{}), notice: preempt.Notice{What: "the spot instance will terminate", Deadline: time.Now().Add(2 * time.Minute)}}
	s := superviseNoticed(t, []preempt.Source{source}, func(c *Config) { c.Socket, c.RequeueExitCode = agent.Socket, 75 }, os.Args[0])
	s.read("ready")
	close(source.due)
	s.wait()
	if timeout := <-requests; timeout < time.Minute || timeout > 2*time.Minute {
		t.Errorf("the save may take %s; the deadline is in two minutes", timeout)
	}
	if s.result.ExitCode != 75 || s.result.Outcome != commonv1.Outcome_OUTCOME_STOPPED || !strings.Contains(s.result.Saved, "checkpoint last of step 3, verified") {
		t.Errorf("result is %+v", s.result)
	}
	if notice, _ := find(agent, (*commonv1.Event).GetPreemption); notice.GetSource() != "cloud" || notice.GetDeadline() == nil {
		t.Errorf("the agent was told %v", notice)
	}
}

func TestASaveThatWouldTakeTooLongIsNotBegun(t *testing.T) {
	agent := trainertest.New(t)
	var asked atomic.Int32
	agent.OnRequest = func(*trainerv1.RequestCheckpointRequest) (string, error) {
		asked.Add(1)
		return "full", nil
	}
	var looks atomic.Int32
	agent.OnStanding = func(r *trainerv1.GetStandingRequest) *trainerv1.GetStandingResponse {
		last := &trainerv1.CheckpointStanding{CheckpointId: "ck-40", Step: 40, State: commonv1.CheckpointState_CHECKPOINT_STATE_STAGED}
		if looks.Add(1) > 3 {
			last.State = commonv1.CheckpointState_CHECKPOINT_STATE_VERIFIED
		}
		return &trainerv1.GetStandingResponse{Last: last, Asked: last, StageTime: durationpb.New(time.Hour), SealTime: durationpb.New(time.Second)}
	}
	agent.Start(t)
	s := supervise(t, func(c *Config) { c.Socket = agent.Socket }, "sh", "-c", `trap 'echo term; exit 1' TERM; echo ready; while :; do sleep 0.01; done`)
	s.read("ready")
	s.signals <- syscall.SIGTERM
	if out := s.wait(); out != "term\n" || asked.Load() != 0 || s.result.ExitCode != 128+15 {
		t.Errorf("output %q, %d saves asked for, result %+v", out, asked.Load(), s.result)
	}
	if want := "no time to save in full: checkpoint ck-40 of step 40, verified"; !strings.Contains(s.result.Explanation, want) {
		t.Errorf("result is %+v, want %q", s.result, want)
	}
}

func TestSignalsMayBeLeftToTheCommand(t *testing.T) {
	agent := trainertest.New(t)
	agent.OnRequest = func(*trainerv1.RequestCheckpointRequest) (string, error) {
		t.Error("the agent was asked")
		return "", nil
	}
	agent.Start(t)
	s := supervise(t, func(c *Config) { c.Socket, c.PassSIGTERM, c.PassSIGUSR1 = agent.Socket, true, true },
		"sh", "-c", `trap 'echo usr1' USR1; trap 'echo term; exit 0' TERM; echo ready; while :; do sleep 0.01; done`)
	s.read("ready")
	s.signals <- syscall.SIGUSR1
	s.read("usr1")
	s.signals <- syscall.SIGTERM
	if out := s.wait(); out != "term\n" || s.result.ExitCode != 0 {
		t.Errorf("output %q, result %+v", out, s.result)
	}
}

// alive tells whether a process is there and no zombie.
func alive(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(text), ") Z ")
}

func TestWhoLeavesTheGroupIsEndedToo(t *testing.T) {
	testkit.Require(t, "setsid")
	file := filepath.Join(t.TempDir(), "pid")
	s := supervise(t, func(c *Config) { c.Policy.MaxRestarts = 0 },
		"sh", "-c", `setsid sh -c 'echo $$ > `+file+`.new; mv `+file+`.new `+file+`; sleep 1000' >/dev/null 2>&1 & while [ ! -e `+file+` ]; do sleep 0.01; done; exit 5`)
	s.wait()
	pid := pidIn(t, file)
	if alive(pid) {
		t.Errorf("process %d, which left the group, outlives the attempt", pid)
	}
}

func pidIn(t *testing.T, file string) int {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func TestWhatAKilledSupervisorLeftTheNextOneEnds(t *testing.T) {
	parent := t.TempDir()
	dead, err := makeDirectory(parent)
	if err != nil {
		t.Fatal(err)
	}
	stray := exec.Command("sleep", "1000")
	stray.Env = append(os.Environ(), marker(filepath.Join(dead.path, "exit-0.json")))
	if err := stray.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = stray.Process.Kill()
		_ = stray.Wait()
	}()
	_ = dead.lock.Close() // as the kernel does
	next, err := makeDirectory(parent)
	if err != nil {
		t.Fatal(err)
	}
	defer next.remove()
	if alive(stray.Process.Pid) {
		t.Error("a process of a dead supervisor lives on")
	}
}

func TestStatesLeadToAnEnd(t *testing.T) {
	// From every state that can be reached Over can be.
	var reach func(from State, seen map[State]bool) map[State]bool
	reach = func(from State, seen map[State]bool) map[State]bool {
		for _, next := range following(from) {
			if !seen[next] {
				seen[next] = true
				reach(next, seen)
			}
		}
		return seen
	}
	all := reach("", map[State]bool{})
	if len(all) != 9 {
		t.Errorf("%d states can be reached, want 9: %v", len(all), all)
	}
	for s := range all {
		if s != Over && !reach(s, map[State]bool{})[Over] {
			t.Errorf("nothing ends a run that is %s", s)
		}
	}
	wrong := 0
	m := machine{wrong: func(State, State) { wrong++ }}
	m.to(Launching)
	m.to(Waiting)
	if wrong != 1 || m.state != Waiting {
		t.Errorf("%d wrong changes were noted, state %s", wrong, m.state)
	}
}

func TestMemoryEventsAreRead(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("proc/cgroup", "1:cpu:/x\n0::/system.slice/job\n")
	write("cgroup/system.slice/job/memory.events", "low 0\nhigh 3\nmax 12\noom 2\noom_kill 4\noom_group_kill 1\n")
	if n, ok := oomKills(filepath.Join(dir, "cgroup"), filepath.Join(dir, "proc")); n != 4 || !ok {
		t.Errorf("oom kills are %d, %v; want 4", n, ok)
	}
	if _, ok := oomKills(filepath.Join(dir, "elsewhere"), filepath.Join(dir, "proc")); ok {
		t.Error("no events, and yet a count")
	}
}

// group is a control group's count of an attempt that may not have been let in.
type group struct{ inside bool }

func (g *group) CountsMemory() bool     { return g.inside }
func (*group) OOMKills() (int64, bool)  { return 7, true }
func (*group) PeakBytes() (int64, bool) { return 1 << 20, true }

// TestKillsForWantOfMemoryAreKnown, of a command that was not let into its group
// by the group of the supervisor.
func TestKillsForWantOfMemoryAreKnown(t *testing.T) {
	kills, known := int64(3), true
	own := func() (int64, bool) { return kills, known }
	g := &group{inside: true}
	m := watchMemory(nil, own)
	with := m
	with.group = g
	kills = 5
	if got := m.kills(); got != 2 || m.peak(0) != nil {
		t.Errorf("%d kills without a group of its own, peak %q; want 2", got, m.peak(0))
	}
	if got := with.kills(); got != 7 || len(with.peak(0)) != 1 {
		t.Errorf("%d kills in the group, peak %q; want 7", got, with.peak(0))
	}
	g.inside = false // as Launch finds out
	if got := with.kills(); got != 2 || with.peak(0) != nil {
		t.Errorf("%d kills outside the group, peak %q; want 2", got, with.peak(0))
	}
	known = false
	if got := with.kills(); got != 0 {
		t.Errorf("%d kills where nothing is known", got)
	}
}

func TestTorchrunsErrorFileIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "error.json")
	text := `{"message": {"message": "RuntimeError: x", "extraInfo": {"py_callstack": "Traceback (most recent call last):\n  File \"a.py\", line 1, in f\nRuntimeError: x\n", "timestamp": "1"}}}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := torchError(path); !strings.HasPrefix(got, "Traceback") || !strings.HasSuffix(got, "RuntimeError: x\n") {
		t.Errorf("read %q", got)
	}
	if got := torchError(path + ".none"); got != "" {
		t.Errorf("read %q out of nothing", got)
	}
}

func TestCheckpointsThatMustBeEncryptedAre(t *testing.T) {
	agent := trainertest.New(t)
	encrypts := atomic.Bool{}
	agent.OnStanding = func(*trainerv1.GetStandingRequest) *trainerv1.GetStandingResponse {
		return &trainerv1.GetStandingResponse{Encrypts: encrypts.Load()}
	}
	agent.Start(t)
	for _, good := range []bool{false, true} {
		encrypts.Store(good)
		s := supervise(t, func(c *Config) { c.Socket, c.NeedEncryption = agent.Socket, true }, "true")
		<-s.done
		if good != (s.err == nil) || (!good && !fault.Is(s.err, fault.Precondition)) {
			t.Errorf("the vault encrypts: %v; Run = %+v, %v", good, s.result, s.err)
		}
	}
}

func TestTheCommandFindsItsSettings(t *testing.T) {
	s := supervise(t, func(c *Config) { c.Settings, c.Environment = []byte(`{"a":1}`), []string{"VIGIL_MODEL_NAME=x"} },
		"sh", "-c", `cat $VIGIL_CONFIG; echo " $VIGIL_MODEL_NAME"`)
	if out := s.wait(); out != "{\"a\":1} x\n" {
		t.Errorf("output %q", out)
	}
}

func TestACheckpointThatCannotBeReadIsNotTakenAgain(t *testing.T) {
	s := supervise(t, func(c *Config) { c.Policy.MaxRestarts = 1 }, "sh", "-c",
		`echo "$VIGIL_RECOVERY"; echo '{"failure": "FAILURE_KIND_CHECKPOINT_CORRUPT", "explanation": "cannot read bad", "checkpoint_id": "bad"}' > $VIGIL_EXIT_FILE; exit 1`)
	if out := s.wait(); out != "\n{\"from\":\"earlier\",\"except\":[\"bad\"],\"learning_rate_scale\":1}\n" {
		t.Errorf("the second attempt is asked for %q", out)
	}
}
