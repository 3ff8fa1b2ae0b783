package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func getRuns(a *app) *cobra.Command {
	var flags listFlags
	cmd := &cobra.Command{
		Use:     "runs",
		Aliases: []string{"run"},
		Short:   "List the runs, the newest first",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd.Context(), "get runs", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewRunServiceClient(c).ListRuns(ctx, &controlv1.ListRunsRequest{Limit: flags.limit})
				if err != nil {
					return err
				}
				return a.show(out, func(p *page) { a.runTable(p, out.Runs) })
			})
		},
	}
	flags.limitFlag(cmd)
	return cmd
}

func (a *app) runTable(p *page, runs []*controlv1.Run) {
	if len(runs) == 0 {
		a.note("No runs yet. Start one: vigil-trainer run -- CMD")
		return
	}
	var rows [][]cell
	for _, r := range runs {
		rows = append(rows, []cell{
			{text: r.RunId}, state(r.State), {text: progress(r.Step, r.TotalSteps)}, {text: number(r.Loss)},
			{text: fmt.Sprint(r.Attempt)}, {text: fmt.Sprint(r.WorldSize)}, {text: age(time.Now(), r.Started)},
			{text: lasted(r)}, {text: orNone(r.Name)}, {text: orNone(strings.Join(r.Nodes, ","))},
		})
	}
	p.table(0, []column{
		{head: "RUN"}, {head: "STATE"}, {head: "STEP", right: true}, {head: "LOSS", right: true},
		{head: "ATTEMPT", right: true}, {head: "RANKS", right: true}, {head: "AGE", right: true},
		{head: "LASTED", right: true, wide: true}, {head: "NAME"}, {head: "NODES", wide: true},
	}, rows)
}

// lasted is how long a run took; none while it has not ended.
func lasted(r *controlv1.Run) string {
	if r.Ended == nil || r.Started == nil {
		return none
	}
	return exact(r.Ended.AsTime().Sub(r.Started.AsTime()))
}
