package fleet

import (
	"context"
	"fmt"
	"time"

	"github.com/vigil-ml/vigil/controlplane/store"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// expire gives up the commands whose deadline has passed and whose agent has
// not said why, and with each the checkpoint that it should have made.
func (f *Fleet) expire(ctx context.Context, now time.Time) error {
	var expired []store.Command
	err := f.deps.Store.Update(ctx, func(tx *store.Tx) (err error) {
		if expired, err = tx.ExpiredCommands(now.Add(-lastWord)); err != nil {
			return err
		}
		for _, command := range expired {
			if err := f.giveUp(tx, command, now); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("give up late commands: %w", err)
	}
	for _, command := range expired {
		f.deps.Log.Warn("command given up: its deadline has passed",
			"command", command.ID, "run", command.RunID, "node", command.Node, "checkpoint", command.CheckpointID)
	}
	return nil
}

func (f *Fleet) giveUp(tx *store.Tx, command store.Command, now time.Time) error {
	var checkpoint *controlv1.Checkpoint // that it makes; most commands make none
	if command.CheckpointID != "" {
		var err error
		if checkpoint, err = tx.Checkpoint(command.CheckpointID); err != nil {
			return err
		}
	}
	connected, err := f.anyConnected(tx, []string{command.Node})
	if err != nil {
		return err
	}
	why := explain(command, checkpoint, connected)
	err = tx.AdvanceTask(&commonv1.CommandResult{
		CommandId: command.ID, Stage: commonv1.CommandStage_COMMAND_STAGE_FAILED, Error: why,
	}, now)
	if err != nil {
		return err
	}
	if err := tx.SetCommandState(command.ID, store.CommandExpired, why); err != nil {
		return err
	}
	return tx.FailUnsaved(command, why, now)
}

// explain says in a sentence that a person can act on why a command came to
// nothing.
func explain(command store.Command, checkpoint *controlv1.Checkpoint, connected bool) string {
	after := command.Deadline.Sub(command.Created)
	switch {
	case checkpoint == nil && connected:
		return fmt.Sprintf("agent of node %s did not finish within %v", command.Node, after)
	case checkpoint.GetState() == commonv1.CheckpointState_CHECKPOINT_STATE_DIRECTED:
		return fmt.Sprintf("the trainer on %s has the order but did not save within %v; does it still make steps?", command.Node, after)
	case !store.Unsaved(checkpoint.GetState()):
		return fmt.Sprintf("the vault on %s did not finish within %v; it goes on", command.Node, after)
	case !connected && command.State == store.CommandPending:
		return fmt.Sprintf("agent of node %s was not connected for %v; is it running?", command.Node, after)
	case !connected:
		return fmt.Sprintf("agent of node %s went away with the command and did not answer within %v; is it running?", command.Node, after)
	case command.State == store.CommandAccepted:
		return fmt.Sprintf("agent of node %s took the command but no trainer took it up within %v; is the trainer alive?", command.Node, after)
	default:
		return fmt.Sprintf("agent of node %s did not answer within %v; is it running?", command.Node, after)
	}
}
