package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func describeRun(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "run RUN",
		Short:             "Show a run: progress, incidents, attempts, checkpoints",
		Args:              oneArg("run", "agentctl get runs lists the runs"),
		ValidArgsFunction: firstArg(a.completeRuns),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), "describe run", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewRunServiceClient(c).GetRun(ctx, &controlv1.GetRunRequest{RunId: args[0]})
				if err != nil {
					return err
				}
				return a.show(out, func(p *page) { runPage(p, time.Now(), out) })
			})
		},
	}
}

func runPage(p *page, now time.Time, out *controlv1.GetRunResponse) {
	runHeader(p, now, out.Run)
	if len(out.Incidents) > 0 {
		p.section("Incidents")
	}
	for n, incident := range out.Incidents {
		if n > 0 {
			p.write("\n")
		}
		incidentStory(p, 2, incident)
	}
	if len(out.Attempts) > 0 {
		p.section("Attempts")
		attemptTable(p, now, out.Attempts)
		recoveries(p, out.Attempts)
	}
	if out.Advice != nil {
		p.section("Advice")
		advice(p, out.Advice)
	}
	if len(out.Checkpoints) > 0 {
		p.section("Checkpoints")
		stageTable(p, now, out.Checkpoints)
	}
}

func runHeader(p *page, now time.Time, r *controlv1.Run) {
	p.line(cell{r.RunId, strong}, state(r.State), cell{text: r.Name})
	if r.Explanation != "" {
		p.text(2, cell{text: r.Explanation})
	}
	fact(p, "progress", bar(r))
	if r.Loss != nil {
		fact(p, "loss", number(r.Loss))
	}
	fact(p, "attempt", fmt.Sprint(r.Attempt))
	where := count(int(r.WorldSize), "rank")
	if len(r.Nodes) > 0 {
		where += " on " + strings.Join(r.Nodes, ", ")
	}
	fact(p, "ranks", where)
	fact(p, "started", clock(now, r.Started)+", "+age(now, r.Started)+" ago")
	if r.Ended != nil {
		fact(p, "ended", clock(now, r.Ended)+", after "+lasted(r))
	}
	if len(r.Settings) > 0 {
		fact(p, "settings", settings(r.Settings))
	}
	if r.ParametersSha256 != "" {
		fact(p, "parameters", "sha256 "+r.ParametersSha256)
	}
}

// fact writes one line of a header.
func fact(p *page, name, value string) {
	p.write("  %s  %s\n", p.paint(cell{fmt.Sprintf("%-10s", name), faint}), value)
}

// bar shows how far a run is: "step 1412 of 3000  [=========           ] 47 %".
func bar(r *controlv1.Run) string {
	if r.TotalSteps <= 0 {
		return fmt.Sprintf("step %d", r.Step)
	}
	const columns = 30
	share := min(max(float64(r.Step)/float64(r.TotalSteps), 0), 1)
	full := int(share * columns)
	return fmt.Sprintf("step %d of %d  [%s%s] %.0f %%", r.Step, r.TotalSteps,
		strings.Repeat("=", full), strings.Repeat(" ", columns-full), share*100)
}

func settings(all map[string]string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		parts = append(parts, name+" "+all[name])
	}
	return strings.Join(parts, ", ")
}

func attemptTable(p *page, now time.Time, attempts []*controlv1.Attempt) {
	var rows [][]cell
	for _, at := range attempts {
		from := "the beginning"
		if at.ResumedCheckpointId != "" {
			from = fmt.Sprintf("step %d", at.ResumedStep)
		}
		took := "still on"
		if at.Ended != nil && at.Started != nil {
			took = exact(at.Ended.AsTime().Sub(at.Started.AsTime()))
		}
		rows = append(rows, []cell{
			{text: fmt.Sprint(at.Attempt)}, {text: clock(now, at.Started)}, {text: from}, {text: took},
			{text: word(at.Failure)}, {text: orNone(at.Explanation)},
		})
	}
	p.table(2, []column{
		{head: "#", right: true}, {head: "STARTED"}, {head: "FROM"}, {head: "LASTED", right: true},
		{head: "FAILURE"}, {head: "WHAT"},
	}, rows)
}
