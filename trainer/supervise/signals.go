package supervise

import (
	"context"
	"syscall"
	"time"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// Stages of ending a command that the supervisor was told to stop.
const (
	running = iota
	asked   // it knows, from the agent or from the signal itself
	termed  // its group got SIGTERM
	killed  // its group got SIGKILL
)

// stopping is how far the end of a command has come.
type stopping struct {
	*supervisor
	process  *process
	stage    int
	timer    *time.Timer // runs out at the end of the stage
	requests *life.Group // what the agent is asked, while signals are listened to
	answers  chan answer // one at most waits of each of the two kinds of requests
	saving   bool        // the answer to SIGUSR1 is not there yet
}

// answer is what came of asking the agent to have the run saved.
type answer struct {
	signal       syscall.Signal // that it was asked for
	checkpointID string
	err          error
}

// watch waits for the end of a command and does what signals ask for.
func (s *supervisor) watch(ctx context.Context, p *process) {
	st := &stopping{
		supervisor: s, process: p, timer: time.NewTimer(time.Hour),
		requests: life.NewGroup(context.WithoutCancel(ctx)), answers: make(chan answer, 2),
	}
	defer func() {
		st.requests.Stop()
		_ = st.requests.Wait()
	}()
	defer st.timer.Stop()
	st.timer.Stop()
	done := ctx.Done()
	for {
		select {
		case <-p.ended:
			return
		case <-done:
			done = nil // once
			st.signal(syscall.SIGTERM)
		case got := <-s.deps.Signals:
			if sig, ok := got.(syscall.Signal); ok {
				st.signal(sig)
			}
		case got := <-st.answers:
			st.answered(got)
		case <-st.timer.C:
			st.next()
		}
	}
}

// signal does what a signal to the supervisor asks for.
func (st *stopping) signal(sig syscall.Signal) {
	if sig == syscall.SIGUSR1 {
		if st.stage == running && !st.saving {
			st.saving = true
			st.ask(sig, commonv1.AfterCheckpoint_AFTER_CHECKPOINT_CONTINUE)
		}
		return
	}
	if st.stage != running {
		st.deps.Log.Warn("told to stop again: not waiting any longer", "signal", signalName(sig))
		st.next()
		return
	}
	st.stopped, st.stage = sig, asked
	st.timer.Reset(st.config.Grace)
	st.ask(sig, commonv1.AfterCheckpoint_AFTER_CHECKPOINT_STOP)
}

// ask asks the agent to have the run saved. The answer may take a while, and
// comes by way of answers: a second signal must not wait for it.
func (st *stopping) ask(sig syscall.Signal, after commonv1.AfterCheckpoint) {
	if !st.session.Connected() {
		st.answered(answer{signal: sig, err: fault.New(fault.Unavailable, "it does not answer")})
		return
	}
	st.requests.Go("request checkpoint", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		id, err := st.session.RequestCheckpoint(ctx, commonv1.CheckpointReason_CHECKPOINT_REASON_PREEMPTION, after, max(st.config.Grace, time.Second))
		st.answers <- answer{signal: sig, checkpointID: id, err: err}
		return nil
	})
}

// answered leaves it to the command when the agent cannot have the run saved,
// unless matters have gone on meanwhile.
func (st *stopping) answered(got answer) {
	want := asked
	if got.signal == syscall.SIGUSR1 {
		st.saving, want = false, running
	}
	switch {
	case got.err == nil:
		st.deps.Log.Info("saving", "signal", signalName(got.signal), "checkpoint", got.checkpointID, "grace", st.config.Grace)
	case st.stage == want:
		if st.session.HasAgent() {
			st.deps.Log.Warn("the agent cannot have the run saved", "cause", got.err)
		}
		st.deps.Log.Info("passing the signal on to the command", "signal", signalName(got.signal), "grace", st.config.Grace)
		st.process.tell(got.signal)
	}
}

// next goes to the next stage.
func (st *stopping) next() {
	switch st.stage {
	case asked:
		st.deps.Log.Warn("the command goes on: SIGTERM to its group")
		st.stage = termed
		st.process.tellGroup(syscall.SIGTERM)
		st.timer.Reset(st.config.KillWait)
	case termed:
		st.deps.Log.Warn("the command goes on: SIGKILL to its group")
		st.stage = killed
		st.process.tellGroup(syscall.SIGKILL)
	}
}
