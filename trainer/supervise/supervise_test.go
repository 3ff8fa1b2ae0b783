package supervise

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
	"github.com/vigil-ml/vigil/trainer"
	"github.com/vigil-ml/vigil/trainer/supervise/policy"
	"github.com/vigil-ml/vigil/trainer/supervise/preempt"
	"github.com/vigil-ml/vigil/trainer/trainertest"
)

// asChild makes the test binary a training process that the SDK serves.
const asChild = "SUPERVISE_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(asChild) != "" {
		os.Exit(child(os.Getenv(asChild)))
	}
	goleak.VerifyTestMain(m)
}

// child is a training process of a few steps.
func child(what string) int {
	ctx := context.Background()
	config, err := trainer.FromEnvironment(os.Getenv)
	if err != nil {
		return 99
	}
	session, err := trainer.Connect(ctx, config, trainer.Deps{})
	if err != nil {
		return 98
	}
	code := 0
	switch what {
	case "NaN at step 8": // and again at every attempt
		session.Step(trainer.StepReport{Step: 7})
		_ = session.WriteExit(commonv1.FailureKind_FAILURE_KIND_NONFINITE, "step 8: NaN", "c", false)
		code = 75
	case "NaN in the step after the resume": // the second attempt resumes from where the first one failed
		if session.Attempt() == 0 {
			session.Step(trainer.StepReport{Step: 7})
		} else {
			session.Resumed(&commonv1.CheckpointRef{Metadata: &commonv1.CheckpointMetadata{Step: 7}})
		}
		_ = session.WriteExit(commonv1.FailureKind_FAILURE_KIND_NONFINITE, "step 8: NaN", "c", false)
		code = 75
	case "hang after step 3":
		session.Step(trainer.StepReport{Step: 3})
		time.Sleep(time.Hour)
	case "use much GPU memory":
		session.Step(trainer.StepReport{Step: 3, GPUBytes: trainer.Known(int64(5 << 30))})
		time.Sleep(time.Hour)
	case "succeed":
		session.RunEnded(&commonv1.RunEnded{Outcome: commonv1.Outcome_OUTCOME_SUCCEEDED, ParametersSha256: "ab"})
	case "save and stop when told":
		fmt.Println("ready")
		order := session.PendingOrder()
		for ; order == nil; order = session.PendingOrder() {
			time.Sleep(time.Millisecond)
		}
		_, _ = session.Save(ctx, order, &commonv1.CheckpointMetadata{Step: 3}, func(string) error { return nil })
		_ = session.WriteExit(commonv1.FailureKind_FAILURE_KIND_PREEMPTED, "told to stop", order.CheckpointID, order.Stops())
		code = 75
	}
	if session.Close(ctx) != nil {
		code = 97
	}
	return code
}

// started is a supervised run in progress.
type started struct {
	t       *testing.T
	signals chan os.Signal
	cancel  context.CancelFunc
	out     *os.File
	done    chan struct{}
	result  Result
	err     error
}

// supervise runs a command with fast backoff.
func supervise(t *testing.T, change func(*Config), command ...string) *started {
	t.Helper()
	return superviseNoticed(t, nil, change, command...)
}

// superviseNoticed is supervise with sources of preemption notices.
func superviseNoticed(t *testing.T, notices []preempt.Source, change func(*Config), command ...string) *started {
	t.Helper()
	config := Defaults()
	config.Command, config.RunID = command, "run-1"
	waiting(&config, time.Millisecond)
	config.Grace, config.KillWait = time.Minute, time.Minute
	if change != nil {
		change(&config)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s := &started{t: t, signals: make(chan os.Signal, 8), cancel: cancel, out: r, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		defer func() { _ = w.Close() }()
		s.result, s.err = Run(ctx, config, Deps{
			Log: testkit.Logger(t), Signals: s.signals, Environ: os.Environ(), Stdout: w, Stderr: os.Stderr,
			Random: func() float64 { return 1 }, OnState: noWrongState(t), Notices: notices,
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-s.done
		_ = r.Close()
	})
	return s
}

// noWrongState fails the test when the supervisor's state changes as it must
// not.
func noWrongState(t *testing.T) func(from, to State) {
	return func(from, to State) {
		if !slices.Contains(following(from), to) {
			t.Errorf("state %q became %q", from, to)
		}
	}
}

// waiting has every kind of failure wait that long before a restart.
func waiting(c *Config, base time.Duration) {
	for name, p := range c.Policy.Kinds {
		p.Backoff = policy.Backoff{Base: base, Factor: 2, Cap: max(base, time.Second)}
		c.Policy.Kinds[name] = p
	}
}

// read waits for a line of the command's output.
func (s *started) read(line string) {
	s.t.Helper()
	got := make([]byte, len(line)+1)
	if _, err := io.ReadFull(s.out, got); err != nil || string(got) != line+"\n" {
		s.t.Fatalf("output is %q, %v; want %q", got, err, line)
	}
}

// wait waits for the end of the run and gives the rest of the output, which
// ends when no process has the pipe any more.
func (s *started) wait() string {
	s.t.Helper()
	rest, err := io.ReadAll(s.out)
	if err != nil {
		s.t.Fatal(err)
	}
	<-s.done
	if s.err != nil {
		s.t.Fatal(s.err)
	}
	return string(rest)
}

// find gives the first event for which pick gives something.
func find[T any](agent *trainertest.Agent, pick func(*commonv1.Event) *T) (*T, *commonv1.Event) {
	for _, event := range agent.Events() {
		if got := pick(event); got != nil {
			return got, event
		}
	}
	return nil, nil
}

func TestRestartsUntilItSucceeds(t *testing.T) {
	agent := trainertest.New(t)
	agent.Start(t)
	s := supervise(t, func(c *Config) { c.Socket, c.Attempt = agent.Socket, 4 },
		"sh", "-c", `echo "$VIGIL_RUN_ID attempt $VIGIL_ATTEMPT"; [ "$VIGIL_ATTEMPT" = 6 ] || exit 3`)
	if out := s.wait(); out != "run-1 attempt 4\nrun-1 attempt 5\nrun-1 attempt 6\n" {
		t.Errorf("output is %q", out)
	}
	if s.result.ExitCode != 0 || s.result.Attempts != 3 || s.result.Outcome != commonv1.Outcome_OUTCOME_SUCCEEDED {
		t.Errorf("result is %+v", s.result)
	}
	var story []string
	for _, event := range agent.Events() {
		switch {
		case event.GetAttemptStarted() != nil:
			story = append(story, fmt.Sprintf("%d started after %d", event.GetAttempt(), event.GetAttemptStarted().GetAfterFailure()))
		case event.GetAttemptEnded() != nil:
			e := event.GetAttemptEnded()
			story = append(story, fmt.Sprintf("%d ended %d restarting %v", event.GetAttempt(), e.GetExitCode(), e.GetRestarting()))
		case event.GetRunEnded() != nil:
			story = append(story, event.GetRunEnded().GetOutcome().String())
		}
	}
	want := "4 started after 0; 4 ended 3 restarting true; 5 started after 16; 5 ended 3 restarting true; " +
		"6 started after 16; 6 ended 0 restarting false; OUTCOME_SUCCEEDED"
	if got := strings.Join(story, "; "); got != want {
		t.Errorf("the agent was told %s\nwant %s", got, want)
	}
}

func TestGivesUpAndPassesTheExitCodeOn(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		code   int
		why    string
	}{
		"exit code": {"exit 42", 42, "gave up after 2 restarts without progress: exit code 42"},
		"signal":    {"kill -9 $$", 137, "killed by SIGKILL"},
	} {
		t.Run(name, func(t *testing.T) {
			s := supervise(t, func(c *Config) { c.Policy.MaxRestarts = 2 }, "sh", "-c", c.script)
			s.wait()
			if s.result.ExitCode != c.code || s.result.Attempts != 3 || s.result.Outcome != commonv1.Outcome_OUTCOME_FAILED || !strings.Contains(s.result.Explanation, c.why) {
				t.Errorf("result is %+v", s.result)
			}
		})
	}
}

func TestTheSameFailureAtTheSameStepEndsTheRun(t *testing.T) {
	for what, withAgent := range map[string]bool{"NaN at step 8": false, "NaN in the step after the resume": true} {
		t.Setenv(asChild, what)
		agent := trainertest.New(t)
		s := supervise(t, func(c *Config) {
			if withAgent {
				agent.Start(t)
				c.Socket = agent.Socket
			}
		}, os.Args[0])
		s.wait()
		if s.result.ExitCode != 1 || s.result.Attempts != 3 || !strings.Contains(s.result.Explanation, "same failure 3 times in a row: step 8: NaN") {
			t.Errorf("result is %+v", s.result)
		}
		if !withAgent {
			continue
		}
		if ended, event := find(agent, (*commonv1.Event).GetAttemptEnded); ended.GetFailure() != commonv1.FailureKind_FAILURE_KIND_NONFINITE || ended.GetExitCode() != 75 {
			t.Errorf("the agent was told %v", event)
		}
		if ended, _ := find(agent, (*commonv1.Event).GetRunEnded); ended.GetOutcome() != commonv1.Outcome_OUTCOME_FAILED || ended.GetStep() != 7 {
			t.Errorf("the agent was told %v", ended)
		}
	}
}

func TestARunIDThatIsUsedAgainGoesOnCounting(t *testing.T) {
	agent := trainertest.New(t)
	agent.Start(t)
	for _, want := range []string{"0\n1\n", "2\n3\n"} {
		s := supervise(t, func(c *Config) { c.Socket, c.Policy.MaxRestarts = agent.Socket, 1 }, "sh", "-c", `echo "$VIGIL_ATTEMPT"; exit 3`)
		if out := s.wait(); out != want {
			t.Errorf("attempts are %q, want %q", out, want)
		}
	}
	events := agent.Events()
	if last := events[len(events)-1]; last.GetRunEnded() == nil || last.GetAttempt() != 3 {
		t.Errorf("the last event is %v, want the end of attempt 3", last)
	}
}

func TestACommandThatVanishesEndsTheRun(t *testing.T) {
	agent := trainertest.New(t)
	agent.Start(t)
	command := filepath.Join(t.TempDir(), "command")
	if err := os.Symlink("/bin/sh", command); err != nil {
		t.Fatal(err)
	}
	s := supervise(t, func(c *Config) { c.Socket = agent.Socket }, command, "-c", `rm "$0"; exit 3`, command)
	<-s.done
	if !fault.Is(s.err, fault.NotFound) {
		t.Errorf("Run = %+v, %v; want not found", s.result, s.err)
	}
	var ends []*commonv1.AttemptEnded
	for _, event := range agent.Events() {
		if ended := event.GetAttemptEnded(); ended != nil {
			ends = append(ends, ended)
		}
	}
	if len(ends) != 2 || !ends[0].GetRestarting() || ends[1].GetRestarting() || ends[1].GetExitCode() != 127 {
		t.Errorf("the agent was told %v", ends)
	}
	if ended, _ := find(agent, (*commonv1.Event).GetRunEnded); ended.GetOutcome() != commonv1.Outcome_OUTCOME_FAILED || !strings.Contains(ended.GetExplanation(), "start "+command) {
		t.Errorf("the agent was told %v", ended)
	}
}

func TestWhatTheTrainerSaidOfTheEndIsNotSaidAgain(t *testing.T) {
	t.Setenv(asChild, "succeed")
	agent := trainertest.New(t)
	agent.Start(t)
	s := supervise(t, func(c *Config) { c.Socket = agent.Socket }, os.Args[0])
	s.wait()
	ends := 0
	for _, event := range agent.Events() {
		if event.GetRunEnded() != nil {
			ends++
		}
	}
	if ends != 1 || s.result.Outcome != commonv1.Outcome_OUTCOME_SUCCEEDED {
		t.Errorf("the end was told %d times, result %+v", ends, s.result)
	}
}

func TestASignalHasTheRunSavedByTheAgent(t *testing.T) {
	t.Setenv(asChild, "save and stop when told")
	agent := trainertest.New(t)
	requests := make(chan *trainerv1.RequestCheckpointRequest, 4)
	agent.OnRequest = func(r *trainerv1.RequestCheckpointRequest) (string, error) {
		requests <- r
		if r.GetAfter() == commonv1.AfterCheckpoint_AFTER_CHECKPOINT_STOP {
			agent.Order("d", &commonv1.CheckpointOrder{CheckpointId: "last", Reason: r.GetReason(), After: r.GetAfter()})
		}
		return "last", nil
	}
	agent.Start(t)
	s := supervise(t, func(c *Config) { c.Socket = agent.Socket }, os.Args[0])
	s.read("ready")
	s.signals <- syscall.SIGUSR1
	if r := <-requests; r.GetAfter() != commonv1.AfterCheckpoint_AFTER_CHECKPOINT_CONTINUE || r.GetReason() != commonv1.CheckpointReason_CHECKPOINT_REASON_PREEMPTION {
		t.Errorf("SIGUSR1 asks for %v", r)
	}
	s.signals <- syscall.SIGTERM
	if r := <-requests; r.GetAfter() != commonv1.AfterCheckpoint_AFTER_CHECKPOINT_STOP || r.GetTimeout().AsDuration() > time.Minute || r.GetTimeout().AsDuration() < time.Minute/2 {
		t.Errorf("SIGTERM asks for %v", r)
	}
	s.wait()
	if s.result.ExitCode != 128+15 || s.result.Attempts != 1 || s.result.Outcome != commonv1.Outcome_OUTCOME_STOPPED {
		t.Errorf("result is %+v", s.result)
	}
	if commits := agent.Commits(); len(commits) != 1 || commits[0].GetCheckpointId() != "last" {
		t.Errorf("commits are %v", commits)
	}
	if ended, _ := find(agent, (*commonv1.Event).GetRunEnded); ended.GetOutcome() != commonv1.Outcome_OUTCOME_STOPPED {
		t.Errorf("the agent was told %v", ended)
	}
}

func TestWithoutAnAgentTheCommandGetsTheSignal(t *testing.T) {
	for name, socket := range map[string]string{"none": "", "nobody there": "/nowhere/agent.sock"} {
		t.Run(name, func(t *testing.T) {
			s := supervise(t, func(c *Config) { c.Socket = socket },
				"sh", "-c", `trap 'echo usr1' USR1; trap 'echo term; exit 7' TERM; echo ready; while :; do sleep 0.01; done`)
			s.read("ready")
			s.signals <- syscall.SIGUSR1
			s.read("usr1")
			s.signals <- syscall.SIGTERM
			if out := s.wait(); out != "term\n" || s.result.ExitCode != 128+15 || s.result.Attempts != 1 {
				t.Errorf("output is %q, result %+v", out, s.result)
			}
		})
	}
}

func TestAnAgentThatKnowsNoTrainerLeavesItToTheCommand(t *testing.T) {
	agent := trainertest.New(t) // answers not found
	agent.Start(t)
	s := supervise(t, func(c *Config) { c.Socket = agent.Socket },
		"sh", "-c", `trap 'echo int; exit 0' INT; echo ready; while :; do sleep 0.01; done`)
	s.read("ready")
	s.signals <- syscall.SIGINT
	if out := s.wait(); out != "int\n" || s.result.ExitCode != 0 || s.result.Outcome != commonv1.Outcome_OUTCOME_STOPPED {
		t.Errorf("output is %q, result %+v", out, s.result)
	}
}

// deaf is a command that ignores what it is told, with a grandchild that does
// too; both hold the output open.
const deaf = `trap '' TERM INT; (trap '' TERM INT; echo ready; while :; do sleep 0.01; done) & wait; while :; do sleep 0.01; done`

func TestEscalatesToTheWholeGroup(t *testing.T) {
	t.Run("as time goes by", func(t *testing.T) {
		s := supervise(t, func(c *Config) { c.Grace, c.KillWait = 20*time.Millisecond, 20*time.Millisecond }, "sh", "-c", deaf)
		s.read("ready")
		s.signals <- syscall.SIGTERM
		s.wait() // returns: nobody holds the output any more
		if s.result.ExitCode != 128+15 || !strings.Contains(s.result.Explanation, "stopped by SIGTERM") {
			t.Errorf("result is %+v", s.result)
		}
	})
	t.Run("as the person insists", func(t *testing.T) {
		s := supervise(t, nil, "sh", "-c", deaf)
		s.read("ready")
		for range 3 {
			s.signals <- syscall.SIGINT
		}
		s.wait()
		if s.result.ExitCode != 128+2 {
			t.Errorf("result is %+v", s.result)
		}
	})
	t.Run("while the agent has not answered", func(t *testing.T) {
		agent := trainertest.New(t)
		asked, ended := make(chan struct{}, 1), make(chan struct{})
		agent.OnRequest = func(*trainerv1.RequestCheckpointRequest) (string, error) {
			asked <- struct{}{}
			<-ended
			return "c", nil
		}
		agent.Start(t)
		defer close(ended)
		s := supervise(t, func(c *Config) { c.Socket = agent.Socket }, "sh", "-c", deaf)
		s.read("ready")
		s.signals <- syscall.SIGINT
		<-asked
		began := time.Now()
		s.signals <- syscall.SIGINT
		s.signals <- syscall.SIGINT
		s.wait()
		if elapsed := time.Since(began); elapsed > askTimeout/2 || s.result.ExitCode != 128+2 {
			t.Errorf("the second signal was heard after %s, result %+v", elapsed, s.result)
		}
	})
	t.Run("at the end of the context", func(t *testing.T) {
		s := supervise(t, func(c *Config) { c.Grace, c.KillWait = time.Millisecond, time.Millisecond }, "sh", "-c", deaf)
		s.read("ready")
		s.cancel()
		s.wait()
		if s.result.Outcome != commonv1.Outcome_OUTCOME_STOPPED {
			t.Errorf("result is %+v", s.result)
		}
	})
}

func TestAGrandchildDoesNotOutliveTheAttempt(t *testing.T) {
	s := supervise(t, func(c *Config) { c.Policy.MaxRestarts = 0 },
		"sh", "-c", `(trap '' TERM; while :; do sleep 0.01; done) & exit 5`)
	s.wait() // returns: nobody holds the output any more
	if s.result.ExitCode != 5 {
		t.Errorf("result is %+v", s.result)
	}
}

func TestASignalDuringTheBackoffEndsTheRun(t *testing.T) {
	s := supervise(t, func(c *Config) { waiting(c, time.Hour) }, "sh", "-c", "echo once; exit 1")
	s.read("once")
	s.signals <- syscall.SIGTERM
	s.wait()
	if s.result.ExitCode != 128+15 || s.result.Attempts != 1 || s.result.Outcome != commonv1.Outcome_OUTCOME_STOPPED {
		t.Errorf("result is %+v", s.result)
	}
}

func TestWhatCannotBeRunIsNotRestarted(t *testing.T) {
	notExecutable := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(notExecutable, []byte("#!/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*Config)
		kind   fault.Kind
	}{
		"no such program": {func(c *Config) { c.Command = []string{"no-such-program-here"} }, fault.NotFound},
		"no such path":    {func(c *Config) { c.Command = []string{"/no/such/program"} }, fault.NotFound},
		"not a program":   {func(c *Config) { c.Command = []string{notExecutable} }, fault.Denied},
		"no command":      {func(c *Config) { c.Command = nil }, fault.Invalid},
		"no run":          {func(c *Config) { c.RunID = "" }, fault.Invalid},
		"negative":        {func(c *Config) { c.Policy.SameFailures = -1 }, fault.Invalid},
		"negative time":   {func(c *Config) { c.Grace = -1 }, fault.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			s := supervise(t, c.change, "true")
			<-s.done
			if !fault.Is(s.err, c.kind) {
				t.Errorf("Run = %+v, %v; want %v", s.result, s.err, c.kind)
			}
		})
	}
}

func TestADamagedExitReportIsNoReport(t *testing.T) {
	s := supervise(t, func(c *Config) { c.Policy.MaxRestarts = 0 }, "sh", "-c", `echo '{"failure":' > "$VIGIL_EXIT_FILE"; exit 75`)
	s.wait()
	if !strings.Contains(s.result.Explanation, "without a reason") {
		t.Errorf("result is %+v", s.result)
	}
}
