package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func describeIncident(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "incident INCIDENT",
		Short:             "Show an incident: findings, timeline, notifications",
		Args:              oneArg("incident", "agentctl get incidents lists the incidents"),
		ValidArgsFunction: firstArg(a.completeIncidents),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), "describe incident", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewIncidentServiceClient(c).GetIncident(ctx, &controlv1.GetIncidentRequest{IncidentId: args[0]})
				if err != nil {
					return err
				}
				return a.show(out, func(p *page) { incidentPage(p, time.Now(), out.Incident) })
			})
		},
	}
}

func incidentPage(p *page, now time.Time, i *controlv1.Incident) {
	incidentStory(p, 0, i)
	p.section("Details")
	if i.Node != "" {
		fact(p, "node", i.Node)
		fact(p, "hits", orNone(strings.Join(i.AffectedRuns, ", ")))
	}
	fact(p, "run", orNone(i.RunId))
	fact(p, "opened", clock(now, i.Opened)+", "+age(now, i.Opened)+" ago")
	if i.Resolved != nil {
		fact(p, "resolved", clock(now, i.Resolved)+", after "+exact(i.Resolved.AsTime().Sub(i.Opened.AsTime())))
	}
	if len(i.Findings) > 0 {
		p.section("Findings")
		findingTable(p, i.Findings)
	}
	if len(i.Notifications) > 0 {
		p.section("Notifications")
		notificationTable(p, i)
	}
}

// incidentStory is what a person reads at three in the morning: the sentence
// first, then what happened, from the moment when the trouble was seen.
func incidentStory(p *page, indent int, i *controlv1.Incident) {
	p.text(indent, cell{i.Summary, strong})
	p.write("%s", strings.Repeat(" ", indent))
	p.line(state(i.Severity), state(i.State), cell{text: i.Kind}, cell{i.IncidentId, faint})
	origin := i.Opened
	if len(i.Findings) > 0 && i.Findings[0].EventTime != nil {
		origin = i.Findings[0].EventTime
	}
	offsets, actions := 0, 0
	for _, entry := range i.Timeline {
		offsets = max(offsets, utf8.RuneCountInString(since(origin, entry.Time)))
		actions = max(actions, utf8.RuneCountInString(entry.Action))
	}
	for _, entry := range i.Timeline {
		lead := fmt.Sprintf("%*s  %-*s  ", offsets, since(origin, entry.Time), actions, entry.Action)
		margin := indent + 2 + utf8.RuneCountInString(lead)
		for n, line := range wrap(entry.Text, p.width-margin) {
			if n > 0 {
				p.write("%s%s\n", strings.Repeat(" ", margin), line)
				continue
			}
			p.write("%s%s%s\n", strings.Repeat(" ", indent+2), p.paint(cell{lead, faint}), line)
		}
	}
}

func findingTable(p *page, findings []*controlv1.Finding) {
	var rows [][]cell
	for _, f := range findings {
		if f.Problem != "" { // a node's: it has no steps and no rank
			part := f.Device
			if f.Gpu != nil {
				part = fmt.Sprintf("GPU %d %s", f.GetGpu(), f.Device)
			}
			rows = append(rows, []cell{
				{text: f.Kind}, state(f.Severity), {text: none}, {text: none}, {text: none}, {text: f.Node},
				{text: strings.TrimSpace(part + " " + evidence(f.Evidence))},
			})
			continue
		}
		rows = append(rows, []cell{
			{text: f.Kind}, state(f.Severity), {text: fmt.Sprint(f.OnsetStep)}, {text: fmt.Sprint(f.Step)},
			{text: fmt.Sprint(f.Rank)}, {text: orNone(f.Node)}, {text: evidence(f.Evidence)},
		})
	}
	p.table(2, []column{
		{head: "KIND"}, {head: "SEVERITY"}, {head: "ONSET", right: true}, {head: "SEEN", right: true},
		{head: "RANK", right: true}, {head: "NODE"}, {head: "EVIDENCE"},
	}, rows)
}

func evidence(values map[string]float64) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(values)) {
		value := values[name]
		parts = append(parts, name+"="+number(&value))
	}
	return orNone(strings.Join(parts, " "))
}

func notificationTable(p *page, i *controlv1.Incident) {
	var rows [][]cell
	for _, n := range i.Notifications {
		rows = append(rows, []cell{
			{text: n.Receiver}, {text: word(n.IncidentState)}, state(n.State), {text: fmt.Sprint(n.Tries)},
			{text: since(i.Opened, n.Delivered)}, {text: orNone(n.Error)},
		})
	}
	p.table(2, []column{
		{head: "RECEIVER"}, {head: "TELLS"}, {head: "STATE"}, {head: "TRIES", right: true},
		{head: "AFTER", right: true}, {head: "ERROR"},
	}, rows)
}
