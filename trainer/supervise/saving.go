package supervise

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
	"github.com/vigil-ml/vigil/trainer/supervise/diagnose"
	"github.com/vigil-ml/vigil/trainer/supervise/preempt"
)

// confirmEvery is how often it is asked whether a checkpoint is read back.
const confirmEvery = 20 * time.Millisecond

// answer is what came of asking the agent to have the run saved.
type answer struct {
	goesOn       bool           // the run is to train on
	signal       syscall.Signal // to pass on when the agent cannot do it; 0: none
	checkpointID string
	plan         preempt.Plan
	last         *trainerv1.CheckpointStanding // confirmed, with ConfirmLast
	err          error
}

// preemption is the event that says that the run will lose its place.
func preemption(source string, deadline time.Time) *commonv1.Event {
	notice := &commonv1.PreemptionNotice{Source: source}
	if !deadline.IsZero() {
		notice.Deadline = timestamppb.New(deadline)
	}
	return &commonv1.Event{Body: &commonv1.Event_Preemption{Preemption: notice}}
}

// saveAndGoOn has the run saved while it trains on.
func (w *watching) saveAndGoOn(source string, deadline time.Time, sig syscall.Signal) {
	if w.machine.state != Running || w.saving {
		return
	}
	w.saving = true
	if !w.session.Connected() {
		w.answered(answer{goesOn: true, signal: sig, err: fault.New(fault.Unavailable, "it does not answer")})
		return
	}
	grace := max(w.config.Grace, time.Second)
	w.requests.Go("request checkpoint", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		id, err := w.session.RequestCheckpoint(ctx, commonv1.CheckpointReason_CHECKPOINT_REASON_PREEMPTION,
			commonv1.AfterCheckpoint_AFTER_CHECKPOINT_CONTINUE, grace)
		w.report(source, deadline)
		w.answers <- answer{goesOn: true, signal: sig, checkpointID: id, err: err}
		return nil
	})
}

// ask has the run saved and stopped, or its last checkpoint confirmed, whichever
// fits into the time that is left. The answer may take a while, and comes by way
// of answers: a second signal must not wait for it.
func (w *watching) ask(sig syscall.Signal, deadline time.Time) {
	if !w.session.Connected() {
		w.answered(answer{signal: sig, err: fault.New(fault.Unavailable, "it does not answer")})
		return
	}
	left := time.Until(deadline)
	until := deadline.Add(-w.config.killWait(left))
	w.requests.Go("save and stop", func(ctx context.Context) error {
		w.answers <- w.saveOrConfirm(ctx, sig, until)
		return nil
	})
}

// saveOrConfirm asks the agent how long saving takes here, and does what fits.
func (w *watching) saveOrConfirm(ctx context.Context, sig syscall.Signal, until time.Time) answer {
	asking, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var measures preempt.Measures
	standing, err := w.session.Standing(asking, time.Time{}, "")
	if err == nil {
		measures = preempt.Measures{Stage: standing.GetStageTime().AsDuration(), Seal: standing.GetSealTime().AsDuration()}
	}
	plan := preempt.Choose(time.Until(until), measures, w.machineGoes, standing.GetLast() != nil)
	if plan == preempt.ConfirmLast {
		return answer{signal: sig, plan: plan, last: w.confirmed(ctx, standing.GetLast(), until)}
	}
	id, err := w.session.RequestCheckpoint(asking, commonv1.CheckpointReason_CHECKPOINT_REASON_PREEMPTION,
		commonv1.AfterCheckpoint_AFTER_CHECKPOINT_STOP, max(time.Until(until), time.Second))
	return answer{signal: sig, checkpointID: id, err: err}
}

// confirmed waits until a checkpoint is read back, and gives how far it came.
func (w *watching) confirmed(ctx context.Context, c *trainerv1.CheckpointStanding, until time.Time) *trainerv1.CheckpointStanding {
	for c.GetState() < commonv1.CheckpointState_CHECKPOINT_STATE_VERIFIED && time.Now().Before(until) {
		asking, cancel := context.WithDeadline(ctx, until)
		standing, err := w.session.Standing(asking, time.Time{}, c.GetCheckpointId())
		cancel()
		if err == nil && standing.GetAsked() != nil {
			c = standing.GetAsked()
		}
		if !life.Sleep(ctx, confirmEvery) {
			break
		}
	}
	return c
}

// answered leaves it to the command when the agent cannot have the run saved,
// unless matters have gone on meanwhile.
func (w *watching) answered(got answer) {
	want := Saving
	if got.goesOn {
		w.saving, want = false, Running
	}
	switch {
	case got.plan == preempt.ConfirmLast:
		w.stopped.saved = "there was no time to save in full: " + confirmation(got.last)
		w.deps.Log.Warn("there is no time to save in full", "last checkpoint", got.last.GetCheckpointId(), "step", got.last.GetStep())
		if w.machine.state == Saving {
			w.next()
		}
	case got.err == nil:
		if !got.goesOn {
			w.asked = got.checkpointID
		}
		w.deps.Log.Info("saving", "checkpoint", got.checkpointID, "goes on", got.goesOn, "grace", w.config.Grace)
	case w.machine.state == want:
		if w.session.HasAgent() {
			w.deps.Log.Warn("the agent cannot have the run saved", "cause", got.err)
		}
		if got.signal != 0 {
			w.deps.Log.Info("passing the signal on to the command", "signal", diagnose.SignalName(got.signal), "grace", w.config.Grace)
			w.process.tell(got.signal)
		}
	}
}

// confirm says, when the command has ended, what became of the state that it was
// told to save: the time that is left is used to see it read back.
func (w *watching) confirm(ctx context.Context) {
	if w.asked == "" || !w.session.Connected() {
		return
	}
	if time.Until(w.deadline) <= 0 {
		w.deadline = time.Now().Add(confirmEvery) // one look
	}
	ctx = context.WithoutCancel(ctx)
	asking, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	standing, err := w.session.Standing(asking, time.Time{}, w.asked)
	if err != nil || standing.GetAsked() == nil {
		return
	}
	asked := standing.GetAsked()
	if asked.GetState() >= commonv1.CheckpointState_CHECKPOINT_STATE_STAGED && asked.GetState() != commonv1.CheckpointState_CHECKPOINT_STATE_FAILED {
		w.stopped.saved = confirmation(w.confirmed(ctx, asked, w.deadline))
		return
	}
	w.stopped.saved = confirmation(asked)
	if last := standing.GetLast(); last != nil {
		w.stopped.saved += ", and the last one is " + confirmation(w.confirmed(ctx, last, w.deadline))
	}
}

// confirmation says how safe a checkpoint is.
func confirmation(c *trainerv1.CheckpointStanding) string {
	name := fmt.Sprintf("checkpoint %s of step %d", c.GetCheckpointId(), c.GetStep())
	switch state := c.GetState(); {
	case c == nil:
		return "nothing was saved"
	case state == commonv1.CheckpointState_CHECKPOINT_STATE_FAILED:
		return name + ", failed"
	case state >= commonv1.CheckpointState_CHECKPOINT_STATE_VERIFIED:
		return name + ", verified"
	case state == commonv1.CheckpointState_CHECKPOINT_STATE_DURABLE:
		return name + ", on stable storage"
	case state == commonv1.CheckpointState_CHECKPOINT_STATE_STAGED:
		return name + ", staged"
	}
	return name + ", not handed over"
}
