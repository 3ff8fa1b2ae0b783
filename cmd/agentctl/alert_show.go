package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vigil-ml/vigil/alerting/alert"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func alertsShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "show INCIDENT",
		Short:             "Show an incident as an alert: its labels, its groups, who was told when, and what keeps it quiet",
		Args:              oneArg("incident", "agentctl alerts list lists what is open"),
		ValidArgsFunction: firstArg(a.completeIncidents),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), "alerts show", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewAlertServiceClient(c).GetAlert(ctx, &controlv1.GetAlertRequest{IncidentId: args[0]})
				if err != nil {
					return err
				}
				return a.show(out, func(p *page) { a.alertPage(p, time.Now(), out) })
			})
		},
	}
}

func (a *app) alertPage(p *page, now time.Time, out *controlv1.GetAlertResponse) {
	shown := out.GetAlert()
	p.line(cell{shown.GetIncidentId(), strong}, state(shown.GetState()), cell{"since " + clock(now, shown.GetStarts()), faint})
	pairs(p, "Labels", shown.GetLabels())
	pairs(p, "Annotations", shown.GetAnnotations())
	p.section("Told to")
	var rows [][]cell
	for _, g := range out.GetGroups() {
		told, next := none, none
		if g.GetTold() != nil {
			told = clock(now, g.GetTold())
		}
		if g.GetDue() != nil {
			next = clock(now, g.GetDue())
		}
		rows = append(rows, []cell{
			{text: g.GetReceiver()}, {text: told}, {text: next}, {text: fmt.Sprint(g.GetAlerts())},
			{text: orNone(strings.Join(g.GetMutedBy(), ", "))}, {text: g.GetKey()},
		})
	}
	p.table(2, []column{
		{head: "RECEIVER"}, {head: "LAST"}, {head: "NEXT LOOK"}, {head: "ALERTS", right: true}, {head: "MUTED BY"}, {head: "GROUP"},
	}, rows)
	if quiet := quietText(shown); quiet != none {
		p.section("Quiet")
		p.text(2, cell{quiet, warn})
	}
	if len(out.GetSilences()) > 0 {
		p.section("Silences")
		a.silenceTable(p, out.GetSilences())
	}
}

// pairs writes names and values below a heading.
func pairs(p *page, title string, of map[string]string) {
	if len(of) == 0 {
		return
	}
	p.section(title)
	for _, name := range alert.Names(of) {
		fact(p, name, of[name])
	}
}

// quietText is what keeps an alert from being told.
func quietText(a *controlv1.Alert) string {
	var parts []string
	for _, quiet := range []struct {
		how string
		by  []string
	}{
		{"silenced", a.GetSilencedBy()}, {"inhibited", a.GetInhibitedBy()}, {"muted", a.GetMutedBy()},
	} {
		if len(quiet.by) > 0 {
			parts = append(parts, quiet.how+" by "+strings.Join(quiet.by, ", "))
		}
	}
	return orNone(strings.Join(parts, "; "))
}
