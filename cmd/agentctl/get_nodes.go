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

func getNodes(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "nodes",
		Aliases: []string{"node"},
		Short:   "List the machines with an agent",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd.Context(), "get nodes", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewNodeServiceClient(c).ListNodes(ctx, &controlv1.ListNodesRequest{})
				if err != nil {
					return err
				}
				return a.show(out, func(p *page) { a.nodeTable(p, out.Nodes) })
			})
		},
	}
}

func (a *app) nodeTable(p *page, nodes []*controlv1.Node) {
	if len(nodes) == 0 {
		a.note("No nodes yet. Start an agent on a machine: vigil-agent")
		return
	}
	var rows [][]cell
	for _, n := range nodes {
		rows = append(rows, []cell{
			{text: n.Name}, state(n.State), {text: orNone(n.AgentVersion)},
			{text: age(time.Now(), n.LastSeen)}, {text: fmt.Sprint(n.SpooledEventFrames)}, dropped(n),
			collectors(n.Collectors), {text: facts(n.Facts)},
		})
	}
	p.table(0, []column{
		{head: "NODE"}, {head: "STATE"}, {head: "AGENT"}, {head: "SEEN", right: true},
		{head: "WAITING", right: true}, {head: "DROPPED", right: true},
		{head: "COLLECTORS"}, {head: "FACTS", wide: true},
	}, rows)
}

// dropped gives the frames that full spools dropped: samples, unless it says
// otherwise.
func dropped(n *controlv1.Node) cell {
	switch {
	case n.DroppedEventFrames > 0:
		return cell{fmt.Sprintf("%d (%d of events)", n.DroppedFrames, n.DroppedEventFrames), bad}
	case n.DroppedFrames > 0:
		return cell{fmt.Sprint(n.DroppedFrames), bad}
	}
	return cell{text: "0"}
}

// collectors says what the collectors do, in groups: those in trouble first.
func collectors(states map[string]string) cell {
	groups := map[string][]string{}
	for _, name := range slices.Sorted(maps.Keys(states)) {
		groups[states[name]] = append(groups[states[name]], name)
	}
	var parts []string
	look := plainStyle
	for _, s := range []string{"stuck", "unknown", "ok", "unsupported"} {
		if len(groups[s]) == 0 {
			continue
		}
		parts = append(parts, s+": "+strings.Join(groups[s], " "))
		if s == "stuck" || s == "unknown" {
			look = warn
		}
	}
	return cell{orNone(strings.Join(parts, ", ")), look}
}

func facts(all map[string]string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		parts = append(parts, name+"="+all[name])
	}
	return orNone(strings.Join(parts, " "))
}
