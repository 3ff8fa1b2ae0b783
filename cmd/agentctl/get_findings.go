package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func getFindings(a *app) *cobra.Command {
	var flags listFlags
	var kind string
	cmd := &cobra.Command{
		Use:     "findings",
		Aliases: []string{"finding"},
		Short:   "List what the detectors said, those that only try too, the newest first",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd.Context(), "get findings", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewFindingServiceClient(c).ListFindings(ctx,
					&controlv1.ListFindingsRequest{RunId: flags.run, Kind: kind, Limit: flags.limit})
				if err != nil {
					return err
				}
				return a.show(out, func(p *page) { a.findingList(p, out.Findings) })
			})
		},
	}
	flags.limitFlag(cmd)
	flags.runFlag(a, cmd, "only those of this `run`")
	cmd.Flags().StringVar(&kind, "kind", "", "only those of this `kind`")
	return cmd
}

func (a *app) findingList(p *page, findings []*controlv1.FindingRecord) {
	if len(findings) == 0 {
		a.note("No findings: no rule has said anything.")
		return
	}
	var rows [][]cell
	for _, record := range findings {
		f := record.Finding
		rows = append(rows, []cell{
			{text: f.FindingId}, {text: orNone(f.RunId)}, {text: f.Kind}, state(f.Severity), {text: number(floatOf(f.OnsetStep))},
			{text: modeOf(f)}, {text: orNone(record.IncidentId)}, {text: word(record.GetFeedback().GetVerdict())},
			{text: age(time.Now(), f.EventTime)}, {text: f.Summary},
		})
	}
	p.table(0, []column{
		{head: "FINDING"}, {head: "RUN"}, {head: "KIND"}, {head: "SEVERITY"}, {head: "STEP", right: true},
		{head: "MODE"}, {head: "INCIDENT", wide: true}, {head: "FEEDBACK"}, {head: "AGE", right: true}, {head: "WHAT"},
	}, rows)
}

func floatOf(n int64) *float64 {
	v := float64(n)
	return &v
}

// modeOf says whether a finding counts.
func modeOf(f *controlv1.Finding) string {
	if f.GetShadow() {
		return "shadow"
	}
	return "on"
}
