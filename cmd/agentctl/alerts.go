package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
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
		Short:   "Show what is told to whom, and bring an Alertmanager's configuration",
		Args:    cobra.ArbitraryArgs,
		RunE:    needsSubcommand,
	}
	cmd.AddCommand(alertsList(a), alertsImport(a), alertsReceivers(a), alertsTest(a), alertsDeadLetters(a))
	return cmd
}

func alertsList(a *app) *cobra.Command {
	var flags listFlags
	var matchers []string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List what is open as alerts: labels, receivers, and what keeps it quiet",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd.Context(), "alerts list", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewAlertServiceClient(c).ListAlerts(ctx,
					&controlv1.ListAlertsRequest{Matchers: matchers, Limit: flags.limit})
				if err != nil {
					return err
				}
				return a.show(out, func(p *page) { a.alertTable(p, out.Alerts) })
			})
		},
	}
	flags.limitFlag(cmd)
	cmd.Flags().StringArrayVar(&matchers, "match", nil, `only those that match, such as severity="critical"; may be given often`)
	return cmd
}

func (a *app) alertTable(p *page, alerts []*controlv1.Alert) {
	if len(alerts) == 0 {
		a.note("No alerts: nothing is open.")
		return
	}
	var rows [][]cell
	for _, alert := range alerts {
		quiet := none
		switch {
		case len(alert.GetSilencedBy()) > 0:
			quiet = "silenced by " + strings.Join(alert.GetSilencedBy(), ", ")
		case len(alert.GetInhibitedBy()) > 0:
			quiet = "inhibited by " + strings.Join(alert.GetInhibitedBy(), ", ")
		}
		rows = append(rows, []cell{
			{text: alert.GetIncidentId()}, state(alert.GetState()), {text: age(time.Now(), alert.GetStarts())},
			{text: orNone(strings.Join(alert.GetReceivers(), " "))}, {text: quiet}, {text: route.LabelText(alert.GetLabels())},
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

func routesCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "routes",
		Short: "See where alerts go",
		Args:  cobra.ArbitraryArgs,
		RunE:  needsSubcommand,
	}
	cmd.AddCommand(routesTest(a))
	return cmd
}

func routesTest(a *app) *cobra.Command {
	var labels map[string]string
	cmd := &cobra.Command{
		Use:     "test --labels NAME=VALUE,...",
		Short:   "Say where an alert with some labels would go, and why",
		Example: `  agentctl routes test --labels alertname=nonfinite,severity=critical,run=digits-7f3a`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd.Context(), "routes test", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewAlertServiceClient(c).TestRoutes(ctx, &controlv1.TestRoutesRequest{Labels: labels})
				if err != nil {
					return err
				}
				return a.show(out, func(p *page) { routePage(p, out) })
			})
		},
	}
	cmd.Flags().StringToStringVar(&labels, "labels", nil, "the alert's labels")
	return cmd
}

// routePage shows the tree as far as it was looked at.
func routePage(p *page, out *controlv1.TestRoutesResponse) {
	for _, step := range out.Steps {
		mark, matchers := cell{"no ", faint}, strings.Join(step.Matchers, " ")
		if step.Matched {
			mark = cell{"yes", good}
		}
		if matchers == "" {
			matchers = "every alert"
		}
		p.write("%s", strings.Repeat("  ", int(step.Depth)))
		p.line(mark, cell{matchers, strong}, cell{step.Why, faint})
		if step.Chosen && step.Receiver != "" {
			p.write("%s", strings.Repeat("  ", int(step.Depth)))
			p.line(cell{text: "    -> " + step.Receiver}, cell{fmt.Sprintf("group %s, waits %v, at most every %v, again after %v",
				step.Group, step.GroupWait.AsDuration(), step.GroupInterval.AsDuration(), step.RepeatInterval.AsDuration()), faint})
		}
	}
	receivers := slices.Sorted(maps.Keys(setOf(out.Receivers)))
	if len(receivers) == 0 {
		receivers = []string{"nobody"}
	}
	p.line(cell{"It goes to " + strings.Join(receivers, " and ") + ".", strong})
	if len(out.SilencedBy) > 0 {
		p.line(cell{"But it is silenced now, by " + strings.Join(out.SilencedBy, " and ") + ".", warn})
	}
}

func setOf(names []string) map[string]bool {
	set := map[string]bool{}
	for _, name := range names {
		set[name] = true
	}
	return set
}
