package multitask

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	"github.com/vigil-ml/vigil/trainer"
)

// resume goes on from the checkpoint that the agent names, if there is one.
func (l *loop) resume(ctx context.Context) error {
	wait := firstResumeWait
	if l.deps.Session.Attempt() > 0 {
		wait = laterResumeWait
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	ref, passedOver, err := l.deps.Session.Resume(ctx)
	for _, p := range passedOver {
		l.deps.Log.Warn("a newer checkpoint is not fit to resume from", "checkpoint", p.GetCheckpointId(), "cause", p.GetReason())
	}
	switch {
	case fault.Is(err, fault.Unavailable) && l.deps.Session.Attempt() == 0:
		l.deps.Log.Warn("no agent says where to go on; training begins from nothing")
		return nil
	case fault.Is(err, fault.Unavailable):
		return fault.WithHint(err, "start the agent, or unset VIGIL_SOCKET to begin from nothing")
	case fault.Is(err, fault.Corrupt):
		return l.unfit(err)
	case err != nil || ref == nil:
		return err
	}
	state, err := os.ReadFile(filepath.Join(ref.GetDirectory(), StateFile))
	if err == nil {
		err = l.training.Restore(state)
	}
	if err != nil {
		return l.unreadable(ref, err)
	}
	l.savedAt = l.training.Step()
	l.deps.Session.Resumed(ref)
	l.deps.Log.Info("resumed", "step", l.training.Step(), "checkpoint", ref.GetCheckpointId())
	return nil
}

// unfit says to the supervisor that its user wants no other checkpoint than one
// that cannot be gone on from.
func (l *loop) unfit(err error) error {
	if exitErr := l.deps.Session.WriteExit(commonv1.FailureKind_FAILURE_KIND_CHECKPOINT_CORRUPT, err.Error(), "", true); exitErr != nil {
		l.deps.Log.Error("the supervisor cannot be told why", "cause", exitErr)
	}
	return err
}

// unreadable says to the supervisor that a checkpoint cannot be gone on from.
func (l *loop) unreadable(ref *commonv1.CheckpointRef, cause error) error {
	err := fmt.Errorf("resume from checkpoint %s: %w", ref.GetCheckpointId(), cause)
	if exitErr := l.deps.Session.WriteExit(commonv1.FailureKind_FAILURE_KIND_CHECKPOINT_CORRUPT, err.Error(), ref.GetCheckpointId(), false); exitErr != nil {
		l.deps.Log.Error("the supervisor cannot be told why", "cause", exitErr)
	}
	return err
}

// finish keeps the last state, as ordered where an order still waits, scores
// the model and says that the run is over. Where the model could not be kept it
// has failed, which a supervisor says, should it not try again.
func (l *loop) finish(ctx context.Context, kept error) {
	session := l.deps.Session
	for order := session.PendingOrder(); order != nil; order = session.PendingOrder() {
		l.save(ctx, order, saveTimeout)
	}
	if l.savedAt < l.training.Step() && session.Connected() {
		l.save(ctx, trainer.Own(commonv1.CheckpointReason_CHECKPOINT_REASON_FINAL, commonv1.AfterCheckpoint_AFTER_CHECKPOINT_CONTINUE), saveTimeout)
	}
	score, digest := l.score(), l.training.Digest()
	l.progress.last(score, digest)
	if kept != nil && session.Supervised() {
		return
	}
	ended := &commonv1.RunEnded{
		Outcome: commonv1.Outcome_OUTCOME_SUCCEEDED, Step: l.training.Step(), ParametersSha256: digest,
		Explanation: fmt.Sprintf("%s; on held-out data: %s", l.made(), score),
	}
	if kept != nil {
		ended.Outcome = commonv1.Outcome_OUTCOME_FAILED
		ended.Explanation += fmt.Sprintf("; the model could not be kept: %v", kept)
	}
	session.RunEnded(ended)
}

// interrupted tells the supervisor why the process ends. Without one there is
// nobody else to say that a stopped run is over.
func (l *loop) interrupted(why *Interrupted) error {
	session := l.deps.Session
	if err := session.WriteExit(why.Failure, why.Explanation, why.CheckpointID, why.Stop); err != nil {
		l.deps.Log.Error("the supervisor cannot be told why", "cause", err)
	}
	if why.Stop && !session.Supervised() {
		session.RunEnded(&commonv1.RunEnded{
			Outcome: commonv1.Outcome_OUTCOME_STOPPED, Step: l.training.Step(),
			ParametersSha256: l.training.Digest(), Explanation: why.Explanation,
		})
	}
	if why.CheckpointID == "" {
		_, _ = fmt.Fprintf(l.deps.Out, "%s; nothing was saved\n", why.Explanation)
	} else {
		_, _ = fmt.Fprintf(l.deps.Out, "%s; saved as %s\n", why.Explanation, why.CheckpointID)
	}
	return why
}

// made says how many steps there were.
func (l *loop) made() string {
	if l.training.Step() < l.config.Steps {
		return fmt.Sprintf("%d of %d steps made, then %d evaluations were no better", l.training.Step(), l.config.Steps, l.training.stop.Bad)
	}
	return fmt.Sprintf("all %d steps made", l.training.Step())
}

// keep writes the model to where the user wants it.
func (l *loop) keep() error {
	if l.config.SaveTo == "" {
		return nil
	}
	state, err := l.training.State()
	if err != nil {
		return err
	}
	if err := durable.WriteFile(durable.OS{}, l.config.SaveTo, state, 0o600); err != nil {
		return fmt.Errorf("keep the model: %w", err)
	}
	return nil
}
