package main

import (
	"context"
	"fmt"
	"os/user"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vigil-ml/vigil/alerting/match"
	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func incidentsCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "incidents",
		Aliases: []string{"incident"},
		Short:   "List incidents, take them, end them, silence them",
		Example: `  agentctl incidents ack inc-7f3a2c1e -m "on my way"
  agentctl incidents silence inc-7f3a2c1e --for 2h -m "known, a bad node"
  agentctl incidents watch`,
		Args: cobra.ArbitraryArgs,
		RunE: needsSubcommand,
	}
	list, show := getIncidents(a), describeIncident(a)
	list.Use, list.Aliases = "list", []string{"ls"}
	show.Use = "show INCIDENT"
	cmd.AddCommand(list, show)
	cmd.AddCommand(incidentActs(a, "incidents")...)
	cmd.AddCommand(
		a.actCommand("incidents reopen", "Have an incident fire again that is over or acknowledged",
			func(ctx context.Context, c controlv1.IncidentServiceClient, act act) (*controlv1.Incident, error) {
				out, err := c.ReopenIncident(ctx, &controlv1.ReopenIncidentRequest{IncidentId: act.id, Author: act.author, Comment: act.text})
				return out.GetIncident(), err
			}),
		a.actCommand("incidents note", "Write into an incident's timeline",
			func(ctx context.Context, c controlv1.IncidentServiceClient, act act) (*controlv1.Incident, error) {
				out, err := c.AddNote(ctx, &controlv1.AddNoteRequest{IncidentId: act.id, Author: act.author, Text: act.text})
				return out.GetIncident(), err
			}),
	)
	return cmd
}

// incidentActs are the commands that incidents have, by that name and as alerts.
func incidentActs(a *app, noun string) []*cobra.Command {
	return []*cobra.Command{
		incidentsSilence(a, noun), incidentsUnsilence(a, noun), incidentsWatch(a, noun),
		a.actCommand(noun+" ack", "Say that you have taken an incident; it is not repeated any more, and not escalated",
			func(ctx context.Context, c controlv1.IncidentServiceClient, act act) (*controlv1.Incident, error) {
				out, err := c.AcknowledgeIncident(ctx, &controlv1.AcknowledgeIncidentRequest{IncidentId: act.id, Author: act.author, Comment: act.text})
				return out.GetIncident(), err
			}),
		a.actCommand(noun+" resolve", "End an incident",
			func(ctx context.Context, c controlv1.IncidentServiceClient, act act) (*controlv1.Incident, error) {
				out, err := c.ResolveIncident(ctx, &controlv1.ResolveIncidentRequest{IncidentId: act.id, Author: act.author, Comment: act.text})
				return out.GetIncident(), err
			}),
	}
}

// act is what a person does about one incident.
type act struct{ id, author, text string }

// authorFlags adds --author and --message.
func (act *act) authorFlags(a *app, cmd *cobra.Command) {
	cmd.Flags().StringVar(&act.author, "author", a.me(), "who does it")
	cmd.Flags().StringVarP(&act.text, "message", "m", "", "why, for the timeline")
}

// me is the name of the person at the terminal.
func (a *app) me() string {
	if name := a.getenv("VIGIL_USER"); name != "" {
		return name
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return a.getenv("USER")
}

// actCommand is a command, named by its noun and verb, that does one thing about
// one incident and shows what it is then.
func (a *app) actCommand(name, short string,
	do func(context.Context, controlv1.IncidentServiceClient, act) (*controlv1.Incident, error),
) *cobra.Command {
	var does act
	_, verb, _ := strings.Cut(name, " ")
	cmd := &cobra.Command{
		Use:               verb + " INCIDENT",
		Short:             short,
		Args:              oneArg("incident", "agentctl incidents list lists the incidents"),
		ValidArgsFunction: firstArg(a.completeIncidents),
		RunE: func(cmd *cobra.Command, args []string) error {
			does.id = args[0]
			return a.call(cmd.Context(), name, func(ctx context.Context, c *client) error {
				incident, err := do(ctx, controlv1.NewIncidentServiceClient(c), does)
				if err != nil {
					return err
				}
				return a.show(incident, func(p *page) { incidentPage(p, time.Now(), incident) })
			})
		},
	}
	does.authorFlags(a, cmd)
	return cmd
}

// incidentsSilence silences what one incident is about: its kind, and its run or
// node.
func incidentsSilence(a *app, noun string) *cobra.Command {
	var does act
	var duration time.Duration
	cmd := &cobra.Command{
		Use:               "silence INCIDENT",
		Short:             "Keep quiet what an incident is about: its kind on its run or node",
		Args:              oneArg("incident", "agentctl incidents list lists the incidents"),
		ValidArgsFunction: firstArg(a.completeIncidents),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), noun+" silence", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewIncidentServiceClient(c).GetIncident(ctx, &controlv1.GetIncidentRequest{IncidentId: args[0]})
				if err != nil {
					return err
				}
				i := out.GetIncident()
				return a.silence(ctx, c, aboutIncident(i), does, duration)
			})
		},
	}
	does.authorFlags(a, cmd)
	cmd.Flags().DurationVar(&duration, "for", time.Hour, "how long")
	return cmd
}

// aboutIncident matches what an incident is about. An external one has its own
// labels; of what Vigil found it is the kind, and the run or else the node.
func aboutIncident(i *controlv1.Incident) match.Matchers {
	if len(i.GetLabels()) > 0 {
		var matchers match.Matchers
		for name, value := range i.GetLabels() {
			matchers = append(matchers, match.Equal(name, value))
		}
		return match.Sorted(matchers)
	}
	matchers := match.Matchers{match.Equal("alertname", i.GetKind())}
	switch {
	case i.GetRunId() != "":
		matchers = append(matchers, match.Equal("run", i.GetRunId()))
	case i.GetNode() != "":
		matchers = append(matchers, match.Equal("node", i.GetNode()))
	}
	return matchers
}

// incidentsUnsilence ends the silences that keep one incident quiet.
func incidentsUnsilence(a *app, noun string) *cobra.Command {
	author := a.me()
	cmd := &cobra.Command{
		Use:               "unsilence INCIDENT",
		Short:             "End every silence that keeps an incident quiet",
		Args:              oneArg("incident", "agentctl alerts list shows what is silenced"),
		ValidArgsFunction: firstArg(a.completeIncidents),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), noun+" unsilence", func(ctx context.Context, c *client) error {
				shown, err := controlv1.NewAlertServiceClient(c).GetAlert(ctx, &controlv1.GetAlertRequest{IncidentId: args[0]})
				if err != nil {
					return err
				}
				out := &controlv1.ListSilencesResponse{}
				for _, id := range shown.GetAlert().GetSilencedBy() {
					ended, err := controlv1.NewSilenceServiceClient(c).ExpireSilence(ctx,
						&controlv1.ExpireSilenceRequest{SilenceId: id, Author: author})
					if err != nil {
						return err
					}
					out.Silences = append(out.Silences, ended.GetSilence())
				}
				if len(out.Silences) == 0 {
					return fault.WithHint(fault.New(fault.Precondition, "nothing silences %s", args[0]), "agentctl alerts show "+args[0]+" says what keeps it quiet")
				}
				return a.show(out, func(p *page) { a.silenceTable(p, out.Silences) })
			})
		},
	}
	cmd.Flags().StringVar(&author, "author", author, "who does it")
	return cmd
}

// silence makes a silence and shows it.
func (a *app) silence(ctx context.Context, c *client, matchers match.Matchers, does act, duration time.Duration) error {
	if does.text == "" {
		return fault.WithHint(fault.New(fault.Invalid, "say why, for those who wonder"), `add -m "why"`)
	}
	out, err := controlv1.NewSilenceServiceClient(c).CreateSilence(ctx, &controlv1.CreateSilenceRequest{
		Duration: durationpb.New(duration),
		Silence:  &controlv1.Silence{Matchers: match.Messages(matchers), Author: does.author, Comment: does.text},
	})
	if err != nil {
		return err
	}
	return a.show(out, func(p *page) { a.silenceTable(p, []*controlv1.Silence{out.GetSilence()}) })
}

// incidentsWatch writes a line for each thing that happens to an incident.
func incidentsWatch(a *app, noun string) *cobra.Command {
	var run string
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Show incidents as they change, those that are open first, until Ctrl-C",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.stream(cmd.Context(), noun+" watch", func(ctx context.Context, c *client) error {
				watch, err := controlv1.NewAlertServiceClient(c).WatchIncidents(ctx, &controlv1.WatchIncidentsRequest{RunId: run})
				if err != nil {
					return err
				}
				for {
					out, err := watch.Recv()
					if err != nil {
						return err
					}
					if err := a.showNext(out, func(p *page) { watchLines(p, out.GetIncident()) }); err != nil {
						return err
					}
				}
			})
		},
	}
	cmd.Flags().StringVar(&run, "run", "", "only those of this `run`")
	complete(cmd, "run", a.completeRuns)
	return cmd
}

func watchLines(p *page, i *controlv1.Incident) {
	for _, entry := range i.GetTimeline() {
		p.line(cell{clock(time.Now(), entry.Time), faint}, cell{i.GetIncidentId(), faint}, state(i.Severity), state(i.State),
			cell{text: fmt.Sprintf("%s: %s", entry.Action, strings.TrimSpace(entry.Text))})
	}
}
