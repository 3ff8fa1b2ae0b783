package supervise

import (
	"context"
	"os"
	"syscall"
	"time"

	"github.com/vigil-ml/vigil/internal/life"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	"github.com/vigil-ml/vigil/trainer/supervise/diagnose"
	"github.com/vigil-ml/vigil/trainer/supervise/preempt"
)

// watching is the supervision of one attempt while its command lives.
type watching struct {
	*supervisor
	process     *process
	health      health
	act         diagnose.Act // what the supervisor ends the command for
	notes       []string     // further evidence
	deadline    time.Time    // by when all must be over; zero: not told to stop
	machineGoes bool         // the machine itself goes away then
	timer       *time.Timer  // runs out at the end of the stage
	requests    *life.Group  // what the agent is asked, while signals are listened to
	answers     chan answer  // one at most waits of each of the two kinds of requests
	saving      bool         // the answer to a request that lets the run go on is not there yet
	asked       string       // the checkpoint that was asked for, to stop
}

// watch waits for the end of a command and does what signals, notices, limits
// and its health ask for.
func (s *supervisor) watch(ctx context.Context, p *process, exitFile string, launched time.Time, pulse *pulse) *watching {
	w := &watching{
		supervisor: s, process: p, timer: time.NewTimer(time.Hour),
		health:   newHealth(s.config, p.cmd.Process.Pid, exitFile, launched, pulse),
		requests: life.NewGroup(context.WithoutCancel(ctx)), answers: make(chan answer, 4),
	}
	defer func() {
		w.requests.Stop()
		_ = w.requests.Wait()
	}()
	w.health.utilization = s.utilization(ctx)
	defer w.timer.Stop()
	w.timer.Stop()
	look := time.NewTicker(s.config.Health.Interval)
	defer look.Stop()
	training := s.alarm(s.config.Limits.Training)
	defer training.Stop()
	allocation := s.alarm(s.config.Limits.Allocation - s.config.Grace)
	defer allocation.Stop()
	done := ctx.Done()
	for {
		select {
		case <-p.ended:
			w.confirm(ctx)
			return w
		case <-done:
			done = nil // once
			w.signal(syscall.SIGTERM)
		case got := <-s.deps.Signals:
			w.told(got)
		case notice := <-s.notices:
			w.notice(notice)
		case <-training.C:
			w.limit("limits.max_training_time_hours: " + s.config.Limits.Training.String() + " are over")
		case <-allocation.C:
			w.end(stop{signal: syscall.SIGTERM, what: "the end of the allocation"}, time.Now().Add(s.config.Grace), true)
		case <-look.C:
			w.look()
		case got := <-w.answers:
			w.answered(got)
		case <-w.timer.C:
			w.next()
		}
	}
}

// alarm rings once when the run has lasted that long; never for 0 or less.
func (s *supervisor) alarm(after time.Duration) *time.Timer {
	if after <= 0 {
		t := time.NewTimer(time.Hour)
		t.Stop()
		return t
	}
	return time.NewTimer(time.Until(s.started.Add(after)))
}

// told does what a signal to the supervisor asks for, or passes it on.
func (w *watching) told(got os.Signal) {
	sig, ok := got.(syscall.Signal)
	if !ok {
		return
	}
	if (sig == syscall.SIGTERM && w.config.PassSIGTERM) || (sig == syscall.SIGUSR1 && w.config.PassSIGUSR1) {
		w.deps.Log.Info("passing the signal on to the command, as configured", "signal", diagnose.SignalName(sig))
		w.process.tell(sig)
		if sig == syscall.SIGTERM && !w.stopped.told() {
			// Whoever sent it wants an end, and the command is trusted with it.
			w.stopped = stop{signal: sig, what: "SIGTERM, passed on"}
		}
		return
	}
	w.signal(sig)
}

// signal does what a signal asks for.
func (w *watching) signal(sig syscall.Signal) {
	if sig == syscall.SIGUSR1 {
		w.saveAndGoOn("SIGUSR1", time.Time{}, syscall.SIGUSR1)
		return
	}
	w.end(stop{signal: sig, what: diagnose.SignalName(sig)}, time.Now().Add(w.config.Grace), false)
}

// notice does what word of a preemption asks for.
func (w *watching) notice(n preempt.Notice) {
	w.deps.Log.Warn("preemption notice", "source", n.Source, "what", n.What, "deadline", n.Deadline)
	if n.Warning {
		w.saveAndGoOn(n.Source, n.Deadline, 0)
		return
	}
	deadline := time.Now().Add(w.config.Grace)
	if !n.Deadline.IsZero() {
		deadline = n.Deadline
	}
	w.end(stop{signal: syscall.SIGTERM, what: n.Source + ": " + n.What}, deadline, true)
	w.report(n.Source, deadline)
}

// report tells the agent that the run will lose its place. It is told after the
// save was asked for, so that nobody asks for a second one.
func (w *watching) report(source string, deadline time.Time) {
	w.session.Report(preemption(source, deadline))
}

// limit ends a run that went beyond one.
func (w *watching) limit(why string) {
	if w.machine.state != Running {
		return
	}
	w.end(stop{
		signal: syscall.SIGTERM, what: why,
		act: diagnose.Act{Failure: commonv1.FailureKind_FAILURE_KIND_LIMIT, Why: why},
	}, time.Now().Add(w.config.Grace), false)
}

// end has the run saved and stopped for good by a deadline. Where that is under
// way, a second word does not wait any longer, unless it is no person's.
func (w *watching) end(why stop, deadline time.Time, machineGoes bool) {
	if w.machine.state != Running {
		w.deps.Log.Warn("told to stop again: not waiting any longer", "by", why.what)
		w.next()
		return
	}
	w.machine.to(Saving)
	w.stopped, w.deadline, w.machineGoes = why, deadline, machineGoes
	w.act = why.act
	left := time.Until(deadline)
	w.timer.Reset(left - w.config.killWait(left))
	w.ask(why.signal, deadline)
}

// look looks at the command's health.
func (w *watching) look() {
	if w.machine.state != Running {
		return
	}
	switch finding := w.health.look(time.Now()); {
	case finding.limit != "":
		w.limit(finding.limit)
	case finding.hang != "":
		w.act = diagnose.Act{Failure: commonv1.FailureKind_FAILURE_KIND_HANG, Why: finding.hang}
		w.notes = append(w.notes, finding.evidence...)
		w.deps.Log.Error("the command hangs: SIGABRT to its group, for the stacks", "cause", finding.hang)
		w.machine.to(Terminating)
		w.process.tellGroup(syscall.SIGABRT)
		w.timer.Reset(w.config.KillWait)
	case finding.warning != "":
		w.deps.Log.Warn(finding.warning)
		w.notes = append(w.notes, finding.warning)
	}
}

// next goes to the next stage.
func (w *watching) next() {
	switch w.machine.state {
	case Saving:
		w.deps.Log.Warn("the command goes on: SIGTERM to its group")
		w.machine.to(Terminating)
		w.process.tellGroup(syscall.SIGTERM)
		w.timer.Reset(max(time.Until(w.deadline), 0))
	case Terminating:
		w.deps.Log.Warn("the command goes on: SIGKILL to its group")
		w.machine.to(Killing)
		w.process.tellGroup(syscall.SIGKILL)
	}
}
