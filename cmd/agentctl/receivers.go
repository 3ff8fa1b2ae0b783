package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func alertsReceivers(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "receivers",
		Short: "List the receivers and how they are",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd.Context(), "alerts receivers", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewReceiverServiceClient(c).ListReceivers(ctx, &controlv1.ListReceiversRequest{})
				if err != nil {
					return err
				}
				return a.show(out, func(p *page) { receiverTable(p, out.Receivers) })
			})
		},
	}
}

func receiverTable(p *page, receivers []*controlv1.Receiver) {
	var rows [][]cell
	for _, r := range receivers {
		how := cell{"well", good}
		if r.Failing {
			how = cell{"failing " + age(time.Now(), r.Since), bad}
		}
		rows = append(rows, []cell{
			{text: r.Name}, {text: r.Kind}, how, {text: fmt.Sprint(r.Waiting)}, {text: fmt.Sprint(r.Dead)}, {text: orNone(r.Fallback)}, {text: r.Error},
		})
	}
	p.table(0, []column{
		{head: "RECEIVER"}, {head: "KIND"}, {head: "STATE"}, {head: "WAITING", right: true}, {head: "DEAD", right: true},
		{head: "FALLBACK"}, {head: "ERROR"},
	}, rows)
}

func alertsTest(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "test RECEIVER",
		Short:             "Send a made-up incident to a receiver, and show what the provider says",
		Args:              oneArg("receiver", "agentctl alerts receivers lists the receivers"),
		ValidArgsFunction: firstArg(a.completeReceivers),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), "alerts test", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewReceiverServiceClient(c).TestReceiver(ctx, &controlv1.TestReceiverRequest{Name: args[0]})
				if err != nil {
					return err
				}
				if err := a.show(out, func(p *page) { testResult(p, out) }); err != nil || out.Delivered {
					return err
				}
				return fault.New(fault.Unavailable, "%s did not take it: %s", args[0], out.Error)
			})
		},
	}
}

func testResult(p *page, out *controlv1.TestReceiverResponse) {
	for _, answer := range out.Answers {
		p.line(cell{"took it", good}, cell{text: answer})
	}
	switch {
	case !out.Delivered && out.Permanent:
		p.line(cell{"refused", bad}, cell{text: out.Error})
	case !out.Delivered:
		p.line(cell{"failed, can be tried again", warn}, cell{text: out.Error})
	case len(out.Answers) == 0:
		p.line(cell{"took it", good})
	}
}

func alertsDeadLetters(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dead-letters",
		Short: "List what could not be told, and tell it again",
		Args:  cobra.ArbitraryArgs,
		RunE:  needsSubcommand,
	}
	cmd.AddCommand(deadLettersList(a), deadLettersReplay(a))
	return cmd
}

func deadLettersList(a *app) *cobra.Command {
	var flags listFlags
	var receiver string
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the notifications that were given up, the last first",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd.Context(), "list dead letters", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewReceiverServiceClient(c).ListDeadLetters(ctx,
					&controlv1.ListDeadLettersRequest{Receiver: receiver, Limit: flags.limit})
				if err != nil {
					return err
				}
				return a.show(out, func(p *page) { a.deadLetterTable(p, out.Letters) })
			})
		},
	}
	flags.limitFlag(cmd)
	cmd.Flags().StringVar(&receiver, "receiver", "", "only those of this `receiver`")
	complete(cmd, "receiver", a.completeReceivers)
	return cmd
}

func (a *app) deadLetterTable(p *page, letters []*controlv1.DeadLetter) {
	if len(letters) == 0 {
		a.note("No dead letters: everything was told, or is still tried.")
		return
	}
	var rows [][]cell
	for _, l := range letters {
		rows = append(rows, []cell{
			{text: l.NotificationId}, {text: l.Receiver}, state(l.IncidentState), {text: fmt.Sprint(l.Tries)},
			{text: age(time.Now(), l.Failed)}, {text: l.Error},
		})
	}
	p.table(0, []column{
		{head: "NOTIFICATION"}, {head: "RECEIVER"}, {head: "TELLS"}, {head: "TRIES", right: true}, {head: "AGE", right: true}, {head: "ERROR"},
	}, rows)
}

func deadLettersReplay(a *app) *cobra.Command {
	var receiver string
	cmd := &cobra.Command{
		Use:   "replay [NOTIFICATION...]",
		Short: "Tell again what was given up: those named, or all of a receiver",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), "replay dead letters", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewReceiverServiceClient(c).ReplayDeadLetters(ctx,
					&controlv1.ReplayDeadLettersRequest{NotificationIds: args, Receiver: receiver})
				if err != nil {
					return err
				}
				return a.show(out, func(p *page) {
					for _, id := range out.Replayed {
						p.line(cell{"again", good}, cell{text: id})
					}
					for _, id := range slices.Sorted(maps.Keys(out.Skipped)) {
						p.line(cell{"not", warn}, cell{text: out.Skipped[id]})
					}
				})
			})
		},
	}
	cmd.Flags().StringVar(&receiver, "receiver", "", "all of this `receiver`")
	complete(cmd, "receiver", a.completeReceivers)
	return cmd
}
