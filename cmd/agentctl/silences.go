package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vigil-ml/vigil/alerting/match"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func silencesCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "silences",
		Aliases: []string{"silence"},
		Short:   "Keep alerts from being told for a while",
		Example: `  agentctl silences add --run digits-7f3a --for 2h -m "I am changing its data"
  agentctl silences add --match 'node=~"gpu-0[1-4]"' --for 8h -m "maintenance"
  agentctl silences expire 5df39c68-3e66-4ca8-9709-92c210642de1`,
		Args: cobra.ArbitraryArgs,
		RunE: needsSubcommand,
	}
	cmd.AddCommand(silencesList(a), silencesShow(a), silencesAdd(a), silencesExpire(a), silencesWatch(a))
	return cmd
}

func silencesList(a *app) *cobra.Command {
	var expired bool
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the silences, those that end last first",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd.Context(), "silences list", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewSilenceServiceClient(c).ListSilences(ctx, &controlv1.ListSilencesRequest{Expired: expired})
				if err != nil {
					return err
				}
				return a.show(out, func(p *page) { a.silenceTable(p, out.Silences) })
			})
		},
	}
	cmd.Flags().BoolVar(&expired, "expired", false, "also those that have expired")
	return cmd
}

func silencesAdd(a *app) *cobra.Command {
	var does act
	var duration time.Duration
	var texts []string
	var run, node, job string
	cmd := &cobra.Command{
		Use:     "add",
		Aliases: []string{"silence"},
		Short:   "Make a silence",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			matchers, err := match.Parse(texts...)
			if err != nil {
				return err
			}
			for _, pair := range [][2]string{{"run", run}, {"node", node}, {"job", job}} {
				if pair[1] != "" {
					matchers = append(matchers, match.Equal(pair[0], pair[1]))
				}
			}
			if len(matchers) == 0 {
				return fault.WithHint(fault.New(fault.Invalid, "silences add: want at least one of --run, --node, --job and --match"),
					`agentctl silences add --run RUN --for 2h -m "why"`)
			}
			return a.call(cmd.Context(), "silences add", func(ctx context.Context, c *client) error {
				return a.silence(ctx, c, matchers, does, duration)
			})
		},
	}
	does.authorFlags(a, cmd)
	cmd.Flags().DurationVar(&duration, "for", time.Hour, "how long")
	cmd.Flags().StringArrayVar(&texts, "match", nil, `a matcher such as severity="warning"; may be given often`)
	cmd.Flags().StringVar(&run, "run", "", "a `run`")
	cmd.Flags().StringVar(&node, "node", "", "a `node`")
	cmd.Flags().StringVar(&job, "job", "", "a `job`")
	complete(cmd, "run", a.completeRuns)
	complete(cmd, "node", a.completeNodes)
	return cmd
}

func silencesExpire(a *app) *cobra.Command {
	var does act
	cmd := &cobra.Command{
		Use:               "expire SILENCE",
		Aliases:           []string{"unsilence"},
		Short:             "End a silence now",
		Args:              oneArg("silence", "agentctl silences list lists the silences"),
		ValidArgsFunction: firstArg(a.completeSilences),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), "silences expire", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewSilenceServiceClient(c).ExpireSilence(ctx,
					&controlv1.ExpireSilenceRequest{SilenceId: args[0], Author: does.author})
				if err != nil {
					return err
				}
				return a.show(out, func(p *page) { a.silenceTable(p, []*controlv1.Silence{out.GetSilence()}) })
			})
		},
	}
	cmd.Flags().StringVar(&does.author, "author", a.me(), "who does it")
	return cmd
}

func silencesShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "show SILENCE",
		Short:             "Show a silence: who made it and why, until when it holds, and which open alerts it matches",
		Args:              oneArg("silence", "agentctl silences list --expired lists the silences"),
		ValidArgsFunction: firstArg(a.completeSilences),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), "silences show", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewSilenceServiceClient(c).GetSilence(ctx, &controlv1.GetSilenceRequest{SilenceId: args[0]})
				if err != nil {
					return err
				}
				return a.show(out, func(p *page) { a.silencePage(p, time.Now(), out) })
			})
		},
	}
}

func (a *app) silencePage(p *page, now time.Time, out *controlv1.GetSilenceResponse) {
	s := out.GetSilence()
	p.line(cell{s.GetSilenceId(), strong}, cell{text: s.GetState()})
	fact(p, "why", s.GetComment())
	fact(p, "author", s.GetAuthor())
	fact(p, "from", clock(now, s.GetStarts()))
	fact(p, "until", clock(now, s.GetEnds()))
	fact(p, "changed", clock(now, s.GetUpdated()))
	for _, text := range matcherTexts(s) {
		fact(p, "matches", text)
	}
	pairs(p, "Annotations", s.GetAnnotations())
	p.section("Open alerts that it matches")
	a.alertTable(p, out.GetAlerts())
}

// silencesWatch asks again and again: silences change rarely, and nobody waits
// for one.
func silencesWatch(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "watch",
		Short: "Show silences as they begin, change and end, those that are there first, until Ctrl-C",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.stream(cmd.Context(), "silences watch", func(ctx context.Context, c *client) error {
				known := map[string]string{}
				for first := true; ; first = false {
					out, err := controlv1.NewSilenceServiceClient(c).ListSilences(ctx, &controlv1.ListSilencesRequest{Expired: true})
					if err != nil {
						return err
					}
					for _, s := range out.Silences {
						now := s.GetState() + s.GetUpdated().AsTime().String()
						if known[s.GetSilenceId()] == now || (first && s.GetState() == "expired") {
							known[s.GetSilenceId()] = now
							continue
						}
						known[s.GetSilenceId()] = now
						if err := a.showNext(s, func(p *page) { silenceLine(p, s) }); err != nil {
							return err
						}
					}
					if !life.Sleep(ctx, silencesEvery) {
						return ctx.Err()
					}
				}
			})
		},
	}
}

// silencesEvery is the time between two looks of a watcher.
const silencesEvery = time.Second

func silenceLine(p *page, s *controlv1.Silence) {
	p.line(cell{clock(time.Now(), s.GetUpdated()), faint}, cell{text: s.GetSilenceId()}, cell{text: s.GetState()},
		cell{text: strings.Join(matcherTexts(s), " ")}, cell{"until " + clock(time.Now(), s.GetEnds()), faint},
		cell{text: s.GetAuthor() + ": " + s.GetComment()})
}

// matcherTexts is what a silence matches, as people write it.
func matcherTexts(s *controlv1.Silence) []string {
	matchers, err := match.Of(s.GetMatchers())
	if err != nil {
		return []string{"?"}
	}
	return matchers.Texts()
}

func (a *app) silenceTable(p *page, silences []*controlv1.Silence) {
	if len(silences) == 0 {
		a.note("No silences: whatever fires is told.")
		return
	}
	var rows [][]cell
	for _, s := range silences {
		rows = append(rows, []cell{
			{text: s.GetSilenceId()}, {text: s.GetState()}, {text: strings.Join(matcherTexts(s), " ")}, {text: clock(time.Now(), s.GetEnds())},
			{text: s.GetAuthor()}, {text: s.GetComment()},
		})
	}
	p.table(0, []column{{head: "SILENCE"}, {head: "STATE"}, {head: "MATCHES"}, {head: "UNTIL"}, {head: "AUTHOR"}, {head: "WHY"}}, rows)
}
