package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func findingsCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "findings",
		Short: "Look at findings, and say which were false alarms",
		Args:  cobra.ArbitraryArgs,
		RunE:  needsSubcommand,
	}
	ls := getFindings(a)
	ls.Use, ls.Aliases = "ls", []string{"list"}
	cmd.AddCommand(ls, findingsShow(a),
		findingsJudge(a, "false-alarm", "Say that there was no problem", controlv1.Verdict_VERDICT_FALSE_ALARM),
		findingsJudge(a, "confirm", "Say that the problem was there", controlv1.Verdict_VERDICT_CONFIRMED))
	return cmd
}

func findingsShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "show FINDING",
		Short:             "Show one finding with its evidence",
		Args:              oneArg("finding", "agentctl findings ls lists the findings"),
		ValidArgsFunction: firstArg(a.completeFindings),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), "show finding", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewFindingServiceClient(c).GetFinding(ctx, &controlv1.GetFindingRequest{FindingId: args[0]})
				if err != nil {
					return err
				}
				return a.show(out, func(p *page) { findingPage(p, out.Finding) })
			})
		},
	}
}

func findingsJudge(a *app, use, short string, verdict controlv1.Verdict) *cobra.Command {
	var note, author string
	cmd := &cobra.Command{
		Use:   use + " FINDING",
		Short: short,
		Long: short + `. The word is kept with the finding, shown in its
incident's timeline, and goes with the run's export: a replay of it says whether
changed rules still find what was called a false alarm. It does not resolve the
incident. A later word takes the place of an earlier one.`,
		Example:           `  agentctl findings ` + use + ` f-0c51a2 --note "a harder curriculum began there"`,
		Args:              oneArg("finding", "agentctl findings ls lists the findings"),
		ValidArgsFunction: firstArg(a.completeFindings),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), "judge finding", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewFindingServiceClient(c).JudgeFinding(ctx,
					&controlv1.JudgeFindingRequest{FindingId: args[0], Verdict: verdict, Note: note, Author: author})
				if err != nil {
					return err
				}
				return a.show(out, func(p *page) { findingPage(p, out.Finding) })
			})
		},
	}
	cmd.Flags().StringVar(&note, "note", "", "why, for those who come later")
	cmd.Flags().StringVar(&author, "by", a.getenv("USER"), "who says so")
	return cmd
}

func findingPage(p *page, record *controlv1.FindingRecord) {
	f, now := record.Finding, time.Now()
	p.text(0, cell{f.Summary, strong})
	p.line(state(f.Severity), cell{text: f.Kind}, cell{f.FindingId, faint})
	fact(p, "run", orNone(f.RunId))
	fact(p, "where", fmt.Sprintf("attempt %d, rank %d, node %s", f.Attempt, f.Rank, orNone(f.Node)))
	if f.Layer != "" {
		fact(p, "layer", f.Layer)
	}
	fact(p, "steps", fmt.Sprintf("began at %d, seen at %d", f.OnsetStep, f.Step))
	fact(p, "time", clock(now, f.EventTime))
	fact(p, "mode", modeOf(f))
	fact(p, "incident", orNone(record.IncidentId))
	for _, name := range slices.Sorted(maps.Keys(f.Evidence)) {
		value := f.Evidence[name]
		fact(p, name, number(&value))
	}
	if said := record.Feedback; said != nil {
		fact(p, "feedback", fmt.Sprintf("%s, by %s at %s", word(said.Verdict), orNone(said.Author), clock(now, said.Time)))
		if said.Note != "" {
			fact(p, "note", said.Note)
		}
	}
}

// completeFindings asks the server for finding ids.
func (a *app) completeFindings(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.completeFrom(cmd, func(ctx context.Context, c *client) (ids []string, err error) {
		out, err := controlv1.NewFindingServiceClient(c).ListFindings(ctx, &controlv1.ListFindingsRequest{})
		for _, record := range out.GetFindings() {
			ids = append(ids, cobra.CompletionWithDesc(record.Finding.FindingId, record.Finding.Kind+" of "+record.Finding.RunId))
		}
		return ids, err
	})
}
