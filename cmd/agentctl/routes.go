package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

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
	cmd.Flags().StringToStringVar(&labels, "labels", nil, "the alert's `labels`")
	complete(cmd, "labels", completeLabels)
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
			if len(step.MutedBy) > 0 {
				p.write("%s", strings.Repeat("  ", int(step.Depth)))
				p.line(cell{"       not now: muted by " + strings.Join(step.MutedBy, " and "), warn})
			}
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
	if len(out.InhibitedBy) > 0 {
		p.line(cell{"But it is inhibited now, by " + strings.Join(out.InhibitedBy, " and ") + ".", warn})
	}
}

func setOf(names []string) map[string]bool {
	set := map[string]bool{}
	for _, name := range names {
		set[name] = true
	}
	return set
}
