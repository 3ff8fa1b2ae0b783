package main

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/protocol"
	"github.com/vigil-ml/vigil/trainer/supervise"
)

// queuedSignals is how many signals may wait; more than anyone sends.
const queuedSignals = 16

func runCommand(a *app) *cobra.Command {
	config := supervise.Defaults()
	cmd := &cobra.Command{
		Use:   "run [flags] -- CMD [ARG...]",
		Short: "Supervise a training command: restart what fails, save before it is stopped",
		Long: `Run CMD as a process group of its own until it is done.

What fails is started again, after a wait that doubles with every failure in a
row; the training process goes on from its last checkpoint. The run ends when
the same failure comes a third time in a row without progress, or after
--max-restarts restarts without progress.

SIGTERM and SIGINT have the run saved and stopped: by the agent, or else by CMD
itself, which then gets the signal. After --grace CMD's process group gets
SIGTERM, and then SIGKILL. A second signal does not wait. SIGUSR1 has the run
saved and lets it go on.

The exit code is CMD's (but 1, not 75, when CMD asks for yet another restart
and the run has ended), 128 and the number of the signal that ended CMD or
stopped the run, 127 when CMD is not found and 126 when it cannot be run.`,
		Example: `  vigil-trainer run --socket /run/vigil/agent.sock -- torchrun train.py
  vigil-trainer run --run-id digits-7 -- vigil-trainer train --steps 5000`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return fault.New(fault.Invalid, "run: there is no command; want run [flags] -- CMD [ARG...]")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			config.Command, config.Socket = args, a.socket
			config.RunID = cmp.Or(config.RunID, newRunID("run"))
			return a.supervise(cmd, config)
		},
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false)
	flags.StringVar(&config.RunID, "run-id", os.Getenv(protocol.EnvRunID), "the run's `id` (env VIGIL_RUN_ID); made up when not given")
	flags.IntVar(&config.MaxRestarts, "max-restarts", config.MaxRestarts, "restarts in a row without progress before giving up")
	flags.DurationVar(&config.Grace, "grace", config.Grace, "time to save and end when told to stop")
	return cmd
}

// supervise runs the command under supervision and keeps its exit code.
func (a *app) supervise(cmd *cobra.Command, config supervise.Config) error {
	log, err := a.logger()
	if err != nil {
		return err
	}
	if text := os.Getenv(protocol.EnvAttempt); text != "" {
		attempt, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return fault.New(fault.Invalid, "read environment: %s is %q; want a whole number from 0 on", protocol.EnvAttempt, text)
		}
		config.Attempt = uint32(attempt)
	}
	tracer, flush, err := a.tracer(cmd.Context(), log)
	if err != nil {
		return err
	}
	defer flush()
	signals := make(chan os.Signal, queuedSignals)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1)
	defer signal.Stop(signals)
	deps := supervise.Deps{
		Log: log, Tracer: tracer, Signals: signals, Environ: os.Environ(),
		Stdout: a.stdout, Stderr: a.stderr, Random: rand.Float64,
	}
	if !term.IsTerminal(int(a.stdin.Fd())) {
		deps.Stdin = a.stdin // a terminal would stop the command, which is not in the foreground
	}
	log.Info("run", "id", config.RunID)
	result, err := supervise.Run(cmd.Context(), config, deps)
	switch {
	case fault.Is(err, fault.NotFound):
		a.code = exitNotFound
	case fault.Is(err, fault.Denied):
		a.code = exitCannotRun
	case err == nil:
		a.code = result.ExitCode
		if a.code != 0 {
			_, _ = fmt.Fprintf(a.stderr, "%s: run %s: %s\n", program, config.RunID, result.Explanation)
		}
	}
	return err
}
