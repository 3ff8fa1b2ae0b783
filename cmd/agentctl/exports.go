package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func exportsCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "exports",
		Short: "Show the systems that events, findings and incidents are exported to",
		Args:  cobra.ArbitraryArgs,
		RunE:  needsSubcommand,
	}
	cmd.AddCommand(exportsList(a), exportsReplay(a))
	return cmd
}

func exportsList(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the exporters and how they are",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd.Context(), "list exporters", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewExportServiceClient(c).ListExporters(ctx, &controlv1.ListExportersRequest{})
				if err != nil {
					return err
				}
				return a.show(out, func(p *page) { a.exporterTable(p, out.Exporters) })
			})
		},
	}
}

func (a *app) exporterTable(p *page, exporters []*controlv1.Exporter) {
	if len(exporters) == 0 {
		a.note("No exporters: the control plane's configuration has no exports.")
		return
	}
	var rows [][]cell
	for _, e := range exporters {
		how := cell{"well", good}
		if e.Error != "" {
			how = cell{"failing " + age(time.Now(), e.Since), bad}
		}
		rows = append(rows, []cell{
			{text: e.Name}, {text: e.Kind}, how, {text: e.Lag.AsDuration().Round(time.Second).String()},
			{text: fmt.Sprint(e.Cursors["events"])}, {text: fmt.Sprint(e.Cursors["records"])}, {text: fmt.Sprint(e.DeadLetters)}, {text: e.Error},
		})
	}
	p.table(0, []column{
		{head: "EXPORTER"}, {head: "KIND"}, {head: "STATE"}, {head: "LAG", right: true},
		{head: "FRAMES", right: true}, {head: "RECORDS", right: true}, {head: "DEAD", right: true}, {head: "ERROR"},
	}, rows)
}

func exportsReplay(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "replay EXPORTER",
		Short: "Send an exporter's dead letters once more",
		Args:  oneArg("exporter", "agentctl exports ls lists the exporters"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), "replay exports", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewExportServiceClient(c).ReplayExports(ctx, &controlv1.ReplayExportsRequest{Name: args[0]})
				if err != nil {
					return err
				}
				return a.show(out, func(p *page) {
					p.line(cell{"taken", good}, cell{text: fmt.Sprint(out.Taken)})
					if out.Refused > 0 {
						p.line(cell{"refused", bad}, cell{text: fmt.Sprint(out.Refused)})
					}
				})
			})
		},
	}
}
