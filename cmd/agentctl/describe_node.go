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

func describeNode(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "node NODE",
		Short:             "Show a node: what is wrong with it, its runs and incidents",
		Args:              oneArg("node", "agentctl get nodes lists the nodes"),
		ValidArgsFunction: firstArg(a.completeNodes),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), "describe node", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewNodeServiceClient(c).GetNode(ctx, &controlv1.GetNodeRequest{Node: args[0]})
				if err != nil {
					return err
				}
				return a.show(out, func(p *page) { nodePage(p, time.Now(), out) })
			})
		},
	}
}

func nodePage(p *page, now time.Time, out *controlv1.GetNodeResponse) {
	n := out.Node
	p.line(cell{n.Name, strong}, state(n.State))
	fact(p, "agent", orNone(n.AgentVersion))
	fact(p, "seen", age(now, n.LastSeen)+" ago")
	fact(p, "collectors", collectors(n.Collectors).text)
	if len(n.Settings) > 0 {
		var set []string
		for _, kind := range slices.Sorted(maps.Keys(n.Settings)) {
			set = append(set, kind+" "+n.Settings[kind])
		}
		fact(p, "set for it", strings.Join(set, "; "))
	}
	fact(p, "facts", facts(n.Facts))
	fact(p, "waiting", fmt.Sprintf("%d frames, %d dropped", n.SpooledEventFrames, n.DroppedFrames))
	for _, r := range out.Runs {
		fact(p, "run", r.RunId+", "+bar(r))
	}
	if len(out.Problems) == 0 {
		p.line(cell{text: "Nothing that Vigil looks for is wrong with it."})
	} else {
		p.section("Problems")
		var rows [][]cell
		for _, f := range out.Problems {
			rows = append(rows, []cell{{text: f.Kind}, state(f.Severity), {text: age(now, f.EventTime)}, {text: f.Summary}})
		}
		p.table(2, []column{{head: "KIND"}, {head: "SEVERITY"}, {head: "SINCE", right: true}, {head: "WHAT"}}, rows)
	}
	if len(out.Incidents) > 0 {
		p.section("Incidents")
	}
	for i, incident := range out.Incidents {
		if i > 0 {
			p.write("\n")
		}
		incidentStory(p, 2, incident)
	}
}
