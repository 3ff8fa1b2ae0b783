package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vigil-ml/vigil/alerting/route"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func alertsCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "alerts",
		Aliases: []string{"alert"},
		Short:   "Show what is told to whom, act on it, and bring an Alertmanager's configuration",
		Example: `  agentctl alerts list --match 'severity="critical"'
  agentctl alerts show inc-7f3a2c1e
  agentctl alerts test oncall`,
		Args: cobra.ArbitraryArgs,
		RunE: needsSubcommand,
	}
	cmd.AddCommand(incidentActs(a, "alerts")...)
	cmd.AddCommand(alertsList(a), alertsShow(a), alertsImport(a), alertsReceivers(a), alertsTest(a), alertsDeadLetters(a))
	return cmd
}

func alertsList(a *app) *cobra.Command {
	var flags listFlags
	var matchers []string
	var receiver string
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List what is open as alerts: labels, receivers, and what keeps it quiet",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd.Context(), "alerts list", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewAlertServiceClient(c).ListAlerts(ctx,
					&controlv1.ListAlertsRequest{Matchers: matchers, Limit: flags.limit, Receiver: receiver})
				if err != nil {
					return err
				}
				return a.show(out, func(p *page) { a.alertTable(p, out.Alerts) })
			})
		},
	}
	flags.limitFlag(cmd)
	cmd.Flags().StringArrayVar(&matchers, "match", nil, `only those that match, such as severity="critical"; may be given often`)
	cmd.Flags().StringVar(&receiver, "receiver", "", "only those that go to this `receiver`")
	complete(cmd, "receiver", a.completeReceivers)
	return cmd
}

func (a *app) alertTable(p *page, alerts []*controlv1.Alert) {
	if len(alerts) == 0 {
		a.note("No alerts: nothing is open.")
		return
	}
	var rows [][]cell
	for _, alert := range alerts {
		rows = append(rows, []cell{
			{text: alert.GetIncidentId()}, state(alert.GetState()), {text: age(time.Now(), alert.GetStarts())},
			{text: orNone(strings.Join(alert.GetReceivers(), " "))}, {text: quietText(alert)}, {text: route.LabelText(alert.GetLabels())},
		})
	}
	p.table(0, []column{
		{head: "INCIDENT"}, {head: "STATE"}, {head: "AGE", right: true}, {head: "GOES TO"}, {head: "QUIET"}, {head: "LABELS"},
	}, rows)
}

func alertsImport(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "import FILE",
		Short: "Turn an alertmanager.yml into Vigil's configuration, and say what could not be",
		Long: `Writes the parts of the control plane's configuration to the standard output,
and what was taken and what was not to the standard error. Nothing is changed.`,
		Args: oneArg("file", "agentctl alerts import alertmanager.yml > alerting.yaml"),
		RunE: func(_ *cobra.Command, args []string) error {
			whole, err := filepath.Abs(args[0])
			if err != nil {
				return fmt.Errorf("alerts import: %w", err)
			}
			text, err := os.ReadFile(whole)
			if err != nil {
				return fmt.Errorf("alerts import: %w", err)
			}
			imported, err := route.Import(text, filepath.Dir(whole))
			if err != nil {
				return fmt.Errorf("alerts import: %w", err)
			}
			for _, line := range imported.Taken {
				a.note("taken:     %s", line)
			}
			for _, line := range imported.Left {
				a.note("not taken: %s", line)
			}
			_, err = a.stdout.Write(imported.Config)
			return err
		},
	}
}
