package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func getIncidents(a *app) *cobra.Command {
	var flags listFlags
	cmd := &cobra.Command{
		Use:     "incidents",
		Aliases: []string{"incident"},
		Short:   "List the incidents, the newest first",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd.Context(), "get incidents", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewIncidentServiceClient(c).ListIncidents(ctx,
					&controlv1.ListIncidentsRequest{RunId: flags.run, Limit: flags.limit})
				if err != nil {
					return err
				}
				return a.show(out, func(p *page) { a.incidentTable(p, out.Incidents) })
			})
		},
	}
	flags.limitFlag(cmd)
	flags.runFlag(a, cmd, "only those of this `run`")
	return cmd
}

// place is the node whose problem it is, or the run.
func place(i *controlv1.Incident) string {
	if i.Node != "" {
		return i.Node
	}
	return i.RunId
}

func (a *app) incidentTable(p *page, incidents []*controlv1.Incident) {
	if len(incidents) == 0 {
		a.note("No incidents: nothing that Vigil looks for has gone wrong.")
		return
	}
	var rows [][]cell
	for _, i := range incidents {
		rows = append(rows, []cell{
			{text: i.IncidentId}, {text: place(i)}, state(i.State), state(i.Severity), {text: i.Kind},
			{text: age(time.Now(), i.Opened)}, {text: i.Summary},
		})
	}
	p.table(0, []column{
		{head: "INCIDENT"}, {head: "WHERE"}, {head: "STATE"}, {head: "SEVERITY"}, {head: "KIND", wide: true},
		{head: "AGE", right: true}, {head: "WHAT"},
	}, rows)
}
