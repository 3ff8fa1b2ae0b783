package supervise

import (
	"context"
	"syscall"
	"time"

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
	process *process
	stage   int
	timer   *time.Timer // runs out at the end of the stage
}

// watch waits for the end of a command and does what signals ask for.
func (s *supervisor) watch(ctx context.Context, p *process) {
	st := &stopping{supervisor: s, process: p, timer: time.NewTimer(time.Hour)}
	defer st.timer.Stop()
	st.timer.Stop()
	done := ctx.Done()
	for {
		select {
		case <-p.ended:
			return
		case <-done:
			done = nil // once
			st.signal(ctx, syscall.SIGTERM)
		case got := <-s.deps.Signals:
			if sig, ok := got.(syscall.Signal); ok {
				st.signal(ctx, sig)
			}
		case <-st.timer.C:
			st.next()
		}
	}
}

// signal does what a signal to the supervisor asks for.
func (st *stopping) signal(ctx context.Context, sig syscall.Signal) {
	if sig == syscall.SIGUSR1 {
		if st.stage == running {
			st.ask(ctx, sig, commonv1.AfterCheckpoint_AFTER_CHECKPOINT_CONTINUE)
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
	st.ask(ctx, sig, commonv1.AfterCheckpoint_AFTER_CHECKPOINT_STOP)
}

// ask has the run saved by way of the agent, or else leaves it to the command.
func (st *stopping) ask(ctx context.Context, sig syscall.Signal, after commonv1.AfterCheckpoint) {
	if st.session.Connected() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
		defer cancel()
		id, err := st.session.RequestCheckpoint(ctx, commonv1.CheckpointReason_CHECKPOINT_REASON_PREEMPTION, after, max(st.config.Grace, time.Second))
		if err == nil {
			st.deps.Log.Info("saving", "signal", signalName(sig), "checkpoint", id, "grace", st.config.Grace)
			return
		}
		st.deps.Log.Warn("the agent cannot have the run saved", "cause", err)
	}
	st.deps.Log.Info("passing the signal on to the command", "signal", signalName(sig), "grace", st.config.Grace)
	st.process.tell(sig)
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
