package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// eventFlags are what a person says about events.
type eventFlags struct {
	listFlags
	node    string
	follow  bool
	noSteps bool
}

func getEvents(a *app) *cobra.Command {
	var flags eventFlags
	cmd := &cobra.Command{
		Use:     "events [RUN]",
		Aliases: []string{"event"},
		Short:   "Show what happened to a run or a node, one line an event",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				flags.run = args[0]
			}
			if flags.node != "" && flags.run != "" {
				return fault.New(fault.Invalid, "get events: a run and a node are named; name one")
			}
			if flags.node != "" {
				return a.stream(cmd.Context(), "get events", func(ctx context.Context, c *client) error {
					return a.watchNodeEvents(ctx, c, flags)
				})
			}
			if flags.run == "" {
				return fault.WithHint(fault.New(fault.Invalid, "get events: no run is named"), "agentctl get events RUN; agentctl get runs lists the runs")
			}
			return a.stream(cmd.Context(), "get events", func(ctx context.Context, c *client) error {
				return a.watchEvents(ctx, c, flags)
			})
		},
	}
	flags.runFlag(a, cmd, "the `run`")
	cmd.Flags().StringVar(&flags.node, "node", "", "the `node`, for how it is, what breaks on it, whether it is heard")
	complete(cmd, "node", a.completeNodes)
	cmd.Flags().BoolVarP(&flags.follow, "follow", "f", false, "go on with the events that come, until Ctrl-C")
	cmd.Flags().BoolVar(&flags.noSteps, "no-steps", false, "leave out the steps")
	return cmd
}

func (a *app) watchEvents(ctx context.Context, c *client, flags eventFlags) error {
	stream, err := controlv1.NewRunServiceClient(c).WatchEvents(ctx, &controlv1.WatchEventsRequest{RunId: flags.run, Follow: flags.follow})
	if err != nil {
		return err
	}
	seen := 0
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		event := response.GetEvent().GetEvent()
		if event == nil || (flags.noSteps && event.GetStep() != nil) {
			continue
		}
		seen++
		if err := a.showNext(response.Event, func(p *page) { eventLine(p, event) }); err != nil {
			return err
		}
	}
	if seen == 0 && a.output.forPeople() {
		a.note("No events of run %s. Wait for some with --follow.", flags.run)
	}
	return nil
}

func (a *app) watchNodeEvents(ctx context.Context, c *client, flags eventFlags) error {
	stream, err := controlv1.NewNodeServiceClient(c).WatchNodeEvents(ctx, &controlv1.WatchNodeEventsRequest{Node: flags.node, Follow: flags.follow})
	if err != nil {
		return err
	}
	seen := 0
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		event := response.GetEvent().GetEvent()
		if event == nil {
			continue
		}
		seen++
		if err := a.showNext(response.Event, func(p *page) { eventLine(p, event) }); err != nil {
			return err
		}
	}
	if seen == 0 && a.output.forPeople() {
		a.note("No events of node %s. Wait for some with --follow.", flags.node)
	}
	return nil
}

// eventLine is one event in one line: when, which attempt and rank, what.
func eventLine(p *page, event *commonv1.Event) {
	at := none
	if event.Time != nil {
		at = event.Time.AsTime().Local().Format("15:04:05.000")
	}
	what, look := eventText(event)
	who := fmt.Sprintf("attempt %d rank %d", event.Attempt, event.Rank)
	if event.RunId == "" {
		who = event.Node
	}
	p.write("%s  %s  %s\n", at, p.paint(cell{who, faint}), p.paint(cell{what, look}))
}
