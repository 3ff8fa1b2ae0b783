package supervise

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/vigil-ml/vigil/internal/protocol"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
	"github.com/vigil-ml/vigil/trainer"
	"github.com/vigil-ml/vigil/trainer/supervise/diagnose"
	"github.com/vigil-ml/vigil/trainer/supervise/output"
	"github.com/vigil-ml/vigil/trainer/supervise/policy"
	"github.com/vigil-ml/vigil/trainer/supervise/preempt"
)

// askTimeout bounds a request to the agent that answers to begin with.
const askTimeout = 3 * time.Second

// Result is how a supervised run ended.
type Result struct {
	// ExitCode is what to exit with: the command's own, or 128 and the signal
	// that ended it or stopped the supervisor, or 1 for a command that asked to
	// be restarted and is not, or 124 where a limit ended it, or the code for
	// requeuing.
	ExitCode    int
	Attempts    int
	Outcome     commonv1.Outcome
	Explanation string // one sentence
	// Saved is what became of the state when the run was stopped; empty when it
	// was not.
	Saved string
}

// supervisor is one supervised run.
type supervisor struct {
	config  Config
	deps    Deps
	session *trainer.Session
	capture *output.Capture
	notices chan preempt.Notice
	machine machine
	dir     string // for exit files
	began   bool   // the agent was told of an attempt
	started time.Time
	history policy.History
	stopped stop              // what the supervisor was told to stop by
	next    protocol.Recovery // what the next attempt is asked for
	asked   *commonv1.Recovery

	confinement confinement
}

// stop is why a run is stopped for good; its zero value: it is not.
type stop struct {
	signal syscall.Signal // that was given, or that stands for what happened
	act    diagnose.Act   // what the end of the command means, where that is not the signal
	what   string         // for people: "SIGTERM", "aws: the spot instance will terminate"
	saved  string         // what became of the state
}

func (s stop) told() bool { return s.signal != 0 }

// limit tells whether it is the user's own limit that ends the run.
func (s stop) limit() bool { return s.act.Failure == commonv1.FailureKind_FAILURE_KIND_LIMIT }

// Run runs the command until it ends well, is stopped, or cannot be brought to
// get on. The end of ctx counts as SIGTERM. It fails with fault.Invalid when
// the configuration is wrong, and with fault.NotFound or fault.Denied when the
// command cannot be started, at first or, should it vanish, later.
func Run(ctx context.Context, config Config, deps Deps) (Result, error) {
	if err := config.check(); err != nil {
		return Result{}, err
	}
	path, err := lookPath(config.Command[0])
	if err != nil {
		return Result{}, err
	}
	capture, err := output.New(config.Output, config.RunID, deps.Log)
	if err != nil {
		return Result{}, err
	}
	defer func() { _ = capture.Close() }()
	session, err := trainer.Connect(ctx, trainer.Config{
		Socket: config.Socket, RunID: config.RunID, Attempt: config.Attempt,
		Kind: trainerv1.SessionKind_SESSION_KIND_SUPERVISOR,
	}, trainer.Deps{Log: deps.Log, Tracer: deps.Tracer})
	if err == nil && deps.Opened != nil {
		deps.Opened(session)
	}
	if err != nil {
		return Result{}, err
	}
	dir, err := makeDirectory(os.TempDir())
	if err != nil {
		_ = session.Close(ctx)
		return Result{}, fmt.Errorf("make directory for exit reports: %w", err)
	}
	defer dir.remove()
	s := &supervisor{
		config: config, deps: deps, session: session, capture: capture, dir: dir.path, started: time.Now(),
		notices: make(chan preempt.Notice, 2*len(deps.Notices)+1),
	}
	result, err := s.supervise(ctx, path)
	if deps.Closing != nil {
		deps.Closing()
	}
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
		s.machine.to(Launching)
		ended, err := s.attempt(ctx, path, number, after)
		if err != nil {
			s.unlaunched(n, err)
			return Result{Attempts: n}, err
		}
		s.machine.to(Judging)
		decision := s.judge(&ended)
		s.exclude(ctx, &decision)
		s.session.Report(&commonv1.Event{Body: &commonv1.Event_AttemptEnded{AttemptEnded: ended.event(decision)}})
		if decision.Restart {
			s.deps.Log.Warn("restarting", "attempt", number, "cause", ended.Explanation, "in", decision.Wait.Round(time.Millisecond), "decision", decision.Why)
			s.prepare(&ended, decision)
			s.machine.to(Waiting)
			if s.pause(ctx, decision.Wait) {
				after = ended.Failure
				number++
				continue
			}
			decision.Why = fmt.Sprintf("stopped by %s before the next attempt; before that: %s", s.stopped.what, ended.Explanation)
		}
		s.machine.to(Over)
		return s.over(&ended, n, decision), nil
	}
}

// judge decides what follows an ending.
func (s *supervisor) judge(ended *ending) policy.Decision {
	if ended.stop {
		return policy.Decision{Failure: ended.Failure, Why: ended.Explanation, LearningRateScale: 1}
	}
	decision := s.history.Next(s.config.Policy, ended.forPolicy(), s.deps.Random())
	ended.Failure = decision.Failure
	s.capture.Note("%s", decision.Why)
	if decision.Page {
		s.deps.Log.Error("a person should look", "cause", ended.Explanation, "decision", decision.Why)
	}
	return decision
}

// prepare keeps what the next attempt is asked for.
func (s *supervisor) prepare(ended *ending, d policy.Decision) {
	s.asked = recovery(d, ended.progress.Step+1)
	s.next = protocol.Recovery{
		From: string(d.From), SkipBatches: d.SkipBatches, SkipAtStep: s.asked.GetSkipAtStep(), LearningRateScale: d.LearningRateScale,
	}
	if id := ended.from(); d.From == policy.Earlier && id != "" {
		s.next.Except = []string{id}
	}
}

// unlaunched tells the agent that an attempt could not be made. Of a run that
// never began it knows nothing, and need not.
func (s *supervisor) unlaunched(attempts int, err error) {
	s.machine.to(Over)
	if !s.began {
		return
	}
	e := unlaunched(err)
	s.session.Report(&commonv1.Event{Body: &commonv1.Event_AttemptEnded{AttemptEnded: e.event(policy.Decision{})}})
	s.over(&e, attempts, policy.Decision{Why: e.Explanation})
}

// over makes the result, and tells the agent unless the process itself did.
func (s *supervisor) over(ended *ending, attempts int, d policy.Decision) Result {
	result := Result{ExitCode: ended.exitCode(), Attempts: attempts, Explanation: d.Why, Saved: s.stopped.saved}
	told := s.stopped.told()
	switch {
	case ended.ok() && told && !ended.reported:
		// It took the signal and calls that well: its exit code stands.
		result.Outcome = commonv1.Outcome_OUTCOME_STOPPED
		if s.config.RequeueExitCode != 0 && !s.stopped.limit() {
			result.ExitCode = s.config.RequeueExitCode
		}
	case ended.ok():
		result.Outcome = commonv1.Outcome_OUTCOME_SUCCEEDED
	case told:
		result.Outcome, result.ExitCode = commonv1.Outcome_OUTCOME_STOPPED, s.stopCode()
	case ended.stop:
		result.Outcome = commonv1.Outcome_OUTCOME_STOPPED
	default:
		result.Outcome = commonv1.Outcome_OUTCOME_FAILED
		switch {
		case d.ExcludeNode && s.config.RequeueExitCode != 0:
			result.ExitCode = s.config.RequeueExitCode // the scheduler finds another node
		case result.ExitCode == protocol.RestartExitCode:
			result.ExitCode = 1 // whoever started the supervisor should not try again
		}
	}
	if result.Saved != "" {
		result.Explanation += "; " + result.Saved
	}
	if !ended.reported {
		s.session.Report(&commonv1.Event{Body: &commonv1.Event_RunEnded{RunEnded: &commonv1.RunEnded{
			Outcome: result.Outcome, Step: max(s.history.Best(), ended.progress.Step), Explanation: s.capture.Text(result.Explanation),
		}}})
	}
	return result
}

// stopCode is what to exit with when the supervisor was told to stop.
func (s *supervisor) stopCode() int {
	switch {
	case s.stopped.limit():
		return exitLimit
	case s.config.RequeueExitCode != 0:
		return s.config.RequeueExitCode
	}
	return signalExit + int(s.stopped.signal)
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
			s.stopped = stop{signal: syscall.SIGTERM, what: "SIGTERM"}
			return false
		case notice := <-s.notices:
			if !notice.Warning {
				s.stopped = stop{signal: syscall.SIGTERM, what: notice.Source + ": " + notice.What}
				return false
			}
		case got := <-s.deps.Signals:
			if sig, _ := got.(syscall.Signal); sig != syscall.SIGUSR1 {
				s.stopped = stop{signal: sig, what: diagnose.SignalName(sig)}
				return false
			}
		}
	}
}
