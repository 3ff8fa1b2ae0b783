package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func getCheckpoints(a *app) *cobra.Command {
	var flags listFlags
	cmd := &cobra.Command{
		Use:     "checkpoints",
		Aliases: []string{"checkpoint"},
		Short:   "List the checkpoints, the newest first",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd.Context(), "get checkpoints", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewCheckpointServiceClient(c).ListCheckpoints(ctx,
					&controlv1.ListCheckpointsRequest{RunId: flags.run, Limit: flags.limit})
				if err != nil {
					return err
				}
				return a.show(out, func(p *page) { a.checkpointTable(p, out.Checkpoints) })
			})
		},
	}
	flags.limitFlag(cmd)
	flags.runFlag(a, cmd, "only those of this `run`")
	return cmd
}

func (a *app) checkpointTable(p *page, checkpoints []*controlv1.Checkpoint) {
	if len(checkpoints) == 0 {
		a.note("No checkpoints yet. Make one: agentctl checkpoint --now --wait")
		return
	}
	var rows [][]cell
	for _, c := range checkpoints {
		rows = append(rows, []cell{
			{text: c.CheckpointId}, {text: c.RunId}, state(c.State), state(c.Health), stepOf(c), sizeOf(c),
			{text: age(time.Now(), begun(c))}, {text: word(c.Reason)}, {text: orNone(c.Node)},
			{text: orNone(short(c.ManifestSha256))}, {text: orNone(c.Path)},
		})
	}
	p.table(0, []column{
		{head: "CHECKPOINT"}, {head: "RUN"}, {head: "STATE"}, {head: "HEALTH"}, {head: "STEP", right: true},
		{head: "SIZE", right: true}, {head: "AGE", right: true}, {head: "REASON", wide: true},
		{head: "NODE", wide: true}, {head: "SHA256", wide: true}, {head: "PATH", wide: true},
	}, rows)
}

// stepOf is a checkpoint's step, once it is known.
func stepOf(c *controlv1.Checkpoint) cell {
	if !staged(c) {
		return cell{text: none}
	}
	return cell{text: fmt.Sprint(c.Step)}
}

// sizeOf is a checkpoint's size, once it is known.
func sizeOf(c *controlv1.Checkpoint) cell {
	if !staged(c) {
		return cell{text: none}
	}
	return cell{text: size(c.SizeBytes)}
}
