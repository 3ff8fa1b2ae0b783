package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func keysCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Replace the keys that checkpoints and records are encrypted with",
		Args:  cobra.ArbitraryArgs,
		RunE:  needsSubcommand,
	}
	cmd.AddCommand(keysRotate(a))
	return cmd
}

func keysRotate(a *app) *cobra.Command {
	in := &controlv1.RotateKeysRequest{}
	var patience time.Duration
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Encrypt the keys of the records and of every vault with the outer key that is configured now",
		Long: `Rotate has the control plane encrypt its records' keys with the outer key that it is configured with now
(protection; the one before is protection.previous until then), and every agent that has checkpoints encrypt its vault's keyring with the outer key
that it is configured with now (vault.encryption; the one before is vault.encryption.previous
until then), and bring the second store's keyring up to date. No checkpoint is written anew.
With --new-data-key there is also a new key for what is saved from then on; the older ones
stay for what they sealed, and the control plane encrypts its records anew with the new one.

It can be broken off and repeated at any time. An agent that is away does it when it is back.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.rotateKeys(cmd.Context(), in, patience)
		},
	}
	cmd.Flags().BoolVar(&in.NewDataKey, "new-data-key", false, "also use a new key for what is saved from now on")
	cmd.Flags().DurationVar(&patience, "wait", 2*time.Minute, "how `long` to wait for all of them")
	return cmd
}

func (a *app) rotateKeys(ctx context.Context, in *controlv1.RotateKeysRequest, patience time.Duration) error {
	err := a.rotateRecordKeys(ctx, in.NewDataKey, patience)
	if err != nil {
		return err
	}
	var tasks []*controlv1.CheckpointTask
	err = a.call(ctx, "keys rotate", func(ctx context.Context, c *client) error {
		out, err := controlv1.NewCheckpointTaskServiceClient(c).RotateKeys(ctx, in)
		tasks = out.GetTasks()
		return err
	})
	if err != nil {
		return err
	}
	if len(tasks) == 0 {
		a.note("No node has checkpoints: there are no keys to replace.")
		return nil
	}
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	failed, away := 0, 0
	for i := range tasks {
		err := a.follow(waiting, "keys rotate", &tasks[i])
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case waiting.Err() != nil && tasks[i].GetEnded() == nil:
			away++
			a.note("%s has not done it yet; it does when it is back.", tasks[i].Node)
		case err != nil:
			return err
		case tasks[i].GetError() != "":
			failed++
			a.note("%s: %s", tasks[i].Node, tasks[i].Error)
		}
	}
	if failed > 0 || away > 0 {
		return fault.WithHint(fault.New(fault.Unavailable, "keys rotate: of %d nodes %d failed and %d have not done it yet", len(tasks), failed, away),
			"agentctl keys rotate again: what is done stays done")
	}
	return nil
}

// progressEvery is how often it is asked how far re-encryption is.
const progressEvery = 300 * time.Millisecond

// rotateRecordKeys replaces the keys of the control plane's records and shows how
// far they are encrypted anew.
func (a *app) rotateRecordKeys(ctx context.Context, fresh bool, patience time.Duration) error {
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return a.stream(waiting, "keys rotate", func(ctx context.Context, c *client) error {
		service := controlv1.NewKeyServiceClient(c)
		out, err := service.RotateRecordKeys(ctx, &controlv1.RotateRecordKeysRequest{NewDataKey: fresh})
		if err != nil {
			return err
		}
		keys, said := out.Keys, int64(-1)
		a.note("The records' keys are encrypted with outer key %s; %s, new data gets %s.", keys.KekId, count(int(keys.Keys), "key"), keys.PrimaryKeyId)
		for {
			if keys.Done != said {
				said = keys.Done
				a.note("%d of %d records are encrypted with it.", keys.Done, keys.Total)
			}
			if keys.Done >= keys.Total {
				return nil
			}
			if !life.Sleep(ctx, progressEvery) {
				a.note("The control plane goes on with the others by itself.")
				return nil
			}
			now, err := service.GetRecordKeys(ctx, &controlv1.GetRecordKeysRequest{})
			if err != nil {
				return err
			}
			keys = now.Keys
		}
	})
}

// ofKeys tells whether a task is about keys.
func ofKeys(t *controlv1.CheckpointTask) bool {
	return t.GetAction() == commonv1.CheckpointAction_CHECKPOINT_ACTION_REWRAP_KEYS || t.GetAction() == commonv1.CheckpointAction_CHECKPOINT_ACTION_ROTATE_KEYS
}
