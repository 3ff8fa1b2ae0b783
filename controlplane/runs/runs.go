// Package runs projects events onto the records of runs, their attempts, their
// checkpoints and the commands that concern them.
//
// Events of one node come in the order in which they happened there; those of
// two nodes may come in any order, and the first ones of a run may be missing.
// Where nodes say different things the records end up the same whichever came
// first. The only exception is a run that one node says was stopped and
// another that it failed: the last word holds.
package runs

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Apply writes what an event says into the records. Sequence is its frame's
// place on the bus. An event that says nothing about a run changes nothing; an
// error is the store's.
func Apply(_ context.Context, tx *store.Tx, sequence uint64, event *commonv1.Event) error {
	var err error
	switch body := event.GetBody().(type) {
	case *commonv1.Event_CommandResult:
		err = applyCommand(tx, event, body.CommandResult)
	case *commonv1.Event_Checkpoint:
		err = applyCheckpoint(tx, event, body.Checkpoint)
	case *commonv1.Event_CheckpointChanged:
		err = tx.ChangeCheckpoint(event.GetRunId(), body.CheckpointChanged, event.GetTime().AsTime())
	case nil:
		return nil
	default:
		if event.GetRunId() == "" { // a node's own
			return nil
		}
		err = applyRun(tx, sequence, event)
	}
	if err != nil {
		return fmt.Errorf("apply event %s: %w", event.GetEventId(), err)
	}
	return nil
}

// applyCommand advances a command. One that is not known was the agent's own.
func applyCommand(tx *store.Tx, event *commonv1.Event, result *commonv1.CommandResult) error {
	states := map[commonv1.CommandStage]store.CommandState{
		commonv1.CommandStage_COMMAND_STAGE_ACCEPTED: store.CommandAccepted,
		commonv1.CommandStage_COMMAND_STAGE_DONE:     store.CommandDone,
		commonv1.CommandStage_COMMAND_STAGE_FAILED:   store.CommandFailed,
	}
	if err := tx.AdvanceTask(result, event.GetTime().AsTime()); err != nil {
		return err
	}
	state, ok := states[result.GetStage()]
	if !ok {
		return nil
	}
	err := tx.SetCommandState(result.GetCommandId(), state, result.GetError())
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil || state != store.CommandFailed {
		return err
	}
	command, err := tx.Command(result.GetCommandId())
	if err != nil {
		return err
	}
	// An agent that never came to begin says nothing of the checkpoint.
	return tx.FailUnsaved(command, result.GetError(), event.GetTime().AsTime())
}

// applyCheckpoint advances a checkpoint; how many ranks save it is the run's
// to say.
func applyCheckpoint(tx *store.Tx, event *commonv1.Event, progress *commonv1.CheckpointProgress) error {
	run, err := tx.Run(event.GetRunId())
	if err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	_, err = tx.AdvanceCheckpoint(progress, event.GetRunId(), event.GetRank(), run.GetWorldSize(),
		event.GetNode(), event.GetTime().AsTime())
	return err
}

// applyRun updates the run and, where the event is about it, the attempt.
func applyRun(tx *store.Tx, sequence uint64, event *commonv1.Event) error {
	if event.GetRunId() == "" {
		return nil
	}
	run, err := tx.Run(event.GetRunId())
	known := err == nil
	if !known && !fault.Is(err, fault.NotFound) {
		return err
	}
	if !known {
		run = &controlv1.Run{RunId: event.GetRunId()}
	}
	late, err := ofEarlierLaunch(tx, run, event)
	if err != nil || late {
		return err
	}
	before := proto.CloneOf(run)
	relaunched := relaunches(run, event)
	if relaunched {
		if err := relaunch(tx, run, event); err != nil {
			return err
		}
	}
	project(run, event, known)
	if !proto.Equal(before, run) {
		if err := tx.PutRun(run, sequence); err != nil {
			return err
		}
	}
	if before.GetEnded() == nil && run.GetEnded() != nil {
		if err := tx.FailUnsavedOf(run.GetRunId(), "the run ended", run.GetEnded().AsTime()); err != nil {
			return err
		}
	}
	newAttempt := !known || relaunched || run.GetAttempt() != before.GetAttempt()
	return applyAttempt(tx, event, newAttempt)
}

// ofEarlierLaunch tells whether an event is late word, from another node, of
// what a run did before it ended and was launched again. It must not end the
// new launch. What only says that a node takes part in the attempt is believed:
// the clocks of two nodes differ.
func ofEarlierLaunch(tx *store.Tx, run *controlv1.Run, event *commonv1.Event) (bool, error) {
	launched, err := tx.Relaunched(run.GetRunId())
	if err != nil || launched.IsZero() || !event.GetTime().AsTime().Before(launched) {
		return false, err
	}
	return !isLaunch(event) || event.GetAttempt() != run.GetAttempt(), nil
}

// relaunch opens a run that ended and begins again, perhaps with a number of
// an attempt that it had before.
func relaunch(tx *store.Tx, run *controlv1.Run, event *commonv1.Event) error {
	begin(run, event.GetAttempt())
	run.Step, run.Loss = 0, nil
	if err := tx.Relaunch(run.GetRunId(), event.GetTime().AsTime()); err != nil {
		return err
	}
	return tx.PutAttempt(run.GetRunId(), &controlv1.Attempt{Attempt: event.GetAttempt(), Started: event.GetTime()})
}

// applyAttempt updates the event's attempt; step reports say nothing of it
// unless they are the first word of it.
func applyAttempt(tx *store.Tx, event *commonv1.Event, isNew bool) error {
	switch event.GetBody().(type) {
	case *commonv1.Event_Step, *commonv1.Event_NonFinite, *commonv1.Event_Tick, *commonv1.Event_Phase, *commonv1.Event_RunEnded:
		if !isNew && !pauses(event) {
			return nil
		}
	}
	attempt, err := tx.Attempt(event.GetRunId(), event.GetAttempt())
	if fault.Is(err, fault.NotFound) {
		attempt, err = &controlv1.Attempt{Attempt: event.GetAttempt()}, nil
	}
	if err != nil {
		return err
	}
	projectAttempt(attempt, event)
	return tx.PutAttempt(event.GetRunId(), attempt)
}
