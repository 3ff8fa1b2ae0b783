// Package demo is `agentctl demo`: the main job, once, for real. It starts a
// control plane, an agent and a supervised training run as processes of their
// own, has a non-finite gradient strike, shows what happens with the time of
// each step, and proves that nothing was lost.
package demo

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
)

// The two runs of the story.
const (
	struckRun = "digits-struck"
	calmRun   = "digits-calm"
	liveRun   = "digits-live"
)

// settings is what the user chose.
type settings struct {
	out   string
	steps int64
	at    int64
	once  bool
}

// Command is the subcommand.
func Command() *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the main job, end to end, on real input",
		Long: "Starts a control plane, an agent and a training run on this machine, strikes the run with a NaN gradient,\n" +
			"and shows how it is detected, told, saved, restarted and finished. Everything listens on loopback and lies\n" +
			"below the output directory.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			if os.Getenv("ONCE") == "1" || !term.IsTerminal(int(os.Stdout.Fd())) {
				s.once = true
			}
			return run(ctx, s, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&s.out, "out", "out", "directory for the summary, logs and state")
	cmd.Flags().Int64Var(&s.steps, "steps", 6000, "optimizer steps of each run")
	cmd.Flags().Int64Var(&s.at, "nan-at", 0, "step at which the gradient turns NaN (default: half of the steps)")
	cmd.Flags().BoolVar(&s.once, "once", false, "end after the story (so it does when the output is not a terminal, or with ONCE=1)")
	return cmd
}

func run(ctx context.Context, s settings, w io.Writer) error {
	if s.at == 0 {
		s.at = s.steps / 2
	}
	if s.at < 2 || s.at >= s.steps {
		return fault.New(fault.Invalid, "--nan-at %d does not lie between 2 and --steps %d", s.at, s.steps)
	}
	return life.Run(ctx, func(ctx context.Context, services, foundations *life.Group) error {
		started := time.Now()
		stage, err := openStage(ctx, s.out, foundations)
		if err != nil {
			return err
		}
		stage.introduce(w)
		story, err := stage.tell(ctx, s, w)
		if err != nil {
			return err
		}
		story.WallSeconds = time.Since(started).Seconds()
		if err := story.write(filepath.Join(s.out, "run-summary.json")); err != nil {
			return err
		}
		story.conclude(w, s)
		if !story.Exact {
			return fault.New(fault.Internal, "prove exact recovery: the digests differ; the logs are in %s", stage.Dir)
		}
		if s.once {
			services.Stop()
			return nil
		}
		return stage.stayUp(ctx, w)
	})
}

// introduce says what was started and where.
func (s *stage) introduce(w io.Writer) {
	_, _ = fmt.Fprintf(w, "\nVigil: the main job, once, for real\n\n")
	_, _ = fmt.Fprintf(w, "  control plane  http://%s  (agents: %s)\n", s.API, s.Agents)
	_, _ = fmt.Fprintf(w, "  agent          node %s, collectors %s\n", s.node.GetName(), collectors(s.node))
	_, _ = fmt.Fprintf(w, "  receivers      slack and webhook, both to http://%s\n", s.receiver.addr)
	_, _ = fmt.Fprintf(w, "  logs, state    %s\n\n", s.Dir)
}

// stayUp leaves everything running, with a run to try commands on.
func (s *stage) stayUp(ctx context.Context, w io.Writer) error {
	live, err := s.Train(liveRun, "--steps", "100000000", "--pace", "20ms")
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(w, `
Everything stays up until Ctrl-C, with a run to try things on:

  export VIGIL_SERVER=%s
  bin/agentctl checkpoint --now --run %s --wait
  bin/agentctl get runs
  bin/agentctl describe run %s
  curl -s http://%s/api/v1/query -H "Authorization: Bearer $(bin/agentctl access token)" --data-urlencode 'query=vigil_run_loss'

`, s.API, liveRun, struckRun, s.API)
	<-ctx.Done()
	_, _ = fmt.Fprintln(w, "\nstopping")
	return live.Stop()
}
