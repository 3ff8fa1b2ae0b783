package supervise

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vigil-ml/vigil/internal/protocol"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
	"github.com/vigil-ml/vigil/trainer"
)

// askTimeout bounds a request to the agent that answers to begin with.
const askTimeout = 3 * time.Second

// Result is how a supervised run ended.
type Result struct {
	// ExitCode is what to exit with: the command's own, or 128 and the signal
	// that ended it or stopped the supervisor, or 1 for a command that asked to
	// be restarted and is not.
	ExitCode    int
	Attempts    int
	Outcome     commonv1.Outcome
	Explanation string // one sentence
}

// supervisor is one supervised run.
type supervisor struct {
	config  Config
	deps    Deps
	session *trainer.Session
	dir     string // for exit files
	began   bool   // the agent was told of an attempt
	history history
	stopped syscall.Signal // what the supervisor was told to stop by; 0: nothing
}

// Run runs the command until it ends well, is stopped, or cannot be brought to
// get on. The end of ctx counts as SIGTERM. It fails with fault.Invalid when
// the configuration is wrong, and with fault.NotFound or fault.Denied when the
// command cannot be started, at first or, should it vanish, later.
func Run(ctx context.Context, config Config, deps Deps) (Result, error) {
	if err := config.check(); err != nil {
		return Result{}, err
	}
	path, err := exec.LookPath(config.Command[0])
	if err != nil {
		return Result{}, startError(exec.Command(config.Command[0]), err)
	}
	session, err := trainer.Connect(ctx, trainer.Config{
		Socket: config.Socket, RunID: config.RunID, Attempt: config.Attempt,
		Kind: trainerv1.SessionKind_SESSION_KIND_SUPERVISOR,
	}, trainer.Deps{Log: deps.Log, Tracer: deps.Tracer})
	if err != nil {
		return Result{}, err
	}
	dir, err := makeDirectory(os.TempDir())
	if err != nil {
		_ = session.Close(ctx)
		return Result{}, fmt.Errorf("make directory for exit reports: %w", err)
	}
	defer dir.remove()
	s := &supervisor{config: config, deps: deps, session: session, dir: dir.path}
	s.history = history{config: config, random: deps.Random}
	result, err := s.run(ctx, path)
	if closeErr := session.Close(context.WithoutCancel(ctx)); closeErr != nil {
		deps.Log.Warn("the agent does not know how the run ended", "cause", closeErr)
	}
	return result, err
}

// run makes attempts. Their numbers go on from those that the agent has seen:
// a run id may be used again, and events of an earlier attempt are old news.
func (s *supervisor) run(ctx context.Context, path string) (Result, error) {
	after := commonv1.FailureKind_FAILURE_KIND_UNSPECIFIED
	number := s.config.Attempt
	for n := 1; ; n++ {
		number = max(number, s.session.NextAttempt())
		s.session.SetAttempt(number)
		ended, err := s.attempt(ctx, path, number, after)
		if err != nil {
			s.unlaunched(n, err)
			return Result{Attempts: n}, err
		}
		verdict := s.history.next(&ended)
		s.session.Report(&commonv1.Event{Body: &commonv1.Event_AttemptEnded{AttemptEnded: ended.event(verdict.restart, verdict.wait)}})
		if verdict.restart {
			s.deps.Log.Warn("restarting", "attempt", number, "cause", ended.explanation, "in", verdict.wait.Round(time.Millisecond))
			if s.pause(ctx, verdict.wait) {
				after = ended.failure
				number++
				continue
			}
			verdict.why = fmt.Sprintf("stopped by %s before the next attempt; before that: %s", signalName(s.stopped), ended.explanation)
		}
		return s.over(&ended, n, verdict.why), nil
	}
}

// unlaunched tells the agent that an attempt could not be made. Of a run that
// never began it knows nothing, and need not.
func (s *supervisor) unlaunched(attempts int, err error) {
	if !s.began {
		return
	}
	e := unlaunched(err)
	s.session.Report(&commonv1.Event{Body: &commonv1.Event_AttemptEnded{AttemptEnded: e.event(false, 0)}})
	s.over(&e, attempts, e.explanation)
}

// over makes the result, and tells the agent unless the process itself did.
func (s *supervisor) over(ended *ending, attempts int, why string) Result {
	result := Result{ExitCode: ended.exitCode(), Attempts: attempts, Explanation: why}
	switch {
	case ended.ok() && s.stopped != 0 && !ended.reported:
		// It took the signal and calls that well: its exit code stands.
		result.Outcome = commonv1.Outcome_OUTCOME_STOPPED
	case ended.ok():
		result.Outcome = commonv1.Outcome_OUTCOME_SUCCEEDED
	case s.stopped != 0:
		result.Outcome, result.ExitCode = commonv1.Outcome_OUTCOME_STOPPED, signalExit+int(s.stopped)
	case ended.stop:
		result.Outcome = commonv1.Outcome_OUTCOME_STOPPED
	default:
		result.Outcome = commonv1.Outcome_OUTCOME_FAILED
		if result.ExitCode == protocol.RestartExitCode {
			result.ExitCode = 1 // whoever started the supervisor should not try again
		}
	}
	if !ended.reported {
		s.session.Report(&commonv1.Event{Body: &commonv1.Event_RunEnded{RunEnded: &commonv1.RunEnded{
			Outcome: result.Outcome, Step: max(s.history.best, ended.step), Explanation: why,
		}}})
	}
	return result
}

// attempt launches the command once and waits for its end.
func (s *supervisor) attempt(ctx context.Context, path string, number uint32, after commonv1.FailureKind) (ending, error) {
	exitFile := filepath.Join(s.dir, fmt.Sprintf("exit-%d.json", number))
	cmd := exec.Command(path, s.config.Command[1:]...)
	cmd.Args[0] = s.config.Command[0]
	cmd.Env = s.environment(number, exitFile)
	cmd.Stdout, cmd.Stderr = s.deps.Stdout, s.deps.Stderr
	if s.deps.Stdin != nil {
		cmd.Stdin = s.deps.Stdin
	}
	launched := time.Now()
	p, err := start(ctx, cmd)
	if err != nil {
		return ending{}, err
	}
	s.began = true
	s.session.Report(&commonv1.Event{Body: &commonv1.Event_AttemptStarted{AttemptStarted: &commonv1.AttemptStarted{
		Command: sayable(s.config.Command), Pid: int64(os.Getpid()), AfterFailure: after,
	}}})
	s.deps.Log.Debug("launched", "attempt", number, "pid", cmd.Process.Pid, "command", s.config.Command)
	s.watch(ctx, p)
	p.end()
	if p.err != nil {
		return ending{}, p.err
	}
	report, err := readReport(exitFile)
	if err != nil {
		s.deps.Log.Warn("the command's reason to exit is not readable", "cause", err)
	}
	e := classify(p.state, report, s.stopped)
	e.lasted = time.Since(launched)
	e.step, e.stepKnown = trainer.ReadProgress(exitFile)
	return e, nil
}

// environment is the command's: what the supervisor has, and the run's own.
func (s *supervisor) environment(attempt uint32, exitFile string) []string {
	env := append([]string(nil), s.deps.Environ...)
	for _, entry := range [][2]string{
		{protocol.EnvSocket, s.config.Socket},
		{protocol.EnvRunID, s.config.RunID},
		{protocol.EnvAttempt, strconv.FormatUint(uint64(attempt), 10)},
		{protocol.EnvExitFile, exitFile},
	} {
		env = append(env, entry[0]+"="+entry[1])
	}
	return env
}

// sayable makes arguments fit for a message: they may be any bytes.
func sayable(command []string) []string {
	list := make([]string, len(command))
	for i, argument := range command {
		list[i] = strings.ToValidUTF8(argument, "\uFFFD")
	}
	return list
}

// pause waits before a restart; false when the supervisor is told to stop.
func (s *supervisor) pause(ctx context.Context, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return true
		case <-ctx.Done():
			s.stopped = syscall.SIGTERM
			return false
		case got := <-s.deps.Signals:
			if sig, _ := got.(syscall.Signal); sig != syscall.SIGUSR1 {
				s.stopped = sig
				return false
			}
		}
	}
}
