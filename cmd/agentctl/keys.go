package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func keysCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Replace the keys that checkpoints are encrypted with",
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
		Short: "Encrypt the keys of every vault with the outer key that is configured now",
		Long: `Rotate has every agent that has checkpoints encrypt its vault's keyring with the outer key
that it is configured with now (vault.encryption; the one before is vault.encryption.previous
until then), and bring the second store's keyring up to date. No checkpoint is written anew.
With --new-data-key there is also a new key for what is saved from then on; the older ones
stay for what they sealed.

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
	var tasks []*controlv1.CheckpointTask
	err := a.call(ctx, "keys rotate", func(ctx context.Context, c *client) error {
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

// ofKeys tells whether a task is about keys.
func ofKeys(t *controlv1.CheckpointTask) bool {
	return t.GetAction() == commonv1.CheckpointAction_CHECKPOINT_ACTION_REWRAP_KEYS || t.GetAction() == commonv1.CheckpointAction_CHECKPOINT_ACTION_ROTATE_KEYS
}
