package main

import (
	"cmp"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/protocol"
	"github.com/vigil-ml/vigil/trainer/supervise"
	"github.com/vigil-ml/vigil/trainer/supervise/policy"
	"github.com/vigil-ml/vigil/trainer/supervise/preempt"
	"github.com/vigil-ml/vigil/trainer/supervise/settings"
)

// queuedSignals is how many signals may wait; more than anyone sends.
const queuedSignals = 16

func runCommand(a *app) *cobra.Command {
	config := supervise.Defaults()
	more := runFlags{maxRestarts: -1}
	cmd := &cobra.Command{
		Use:   "run [flags] -- CMD [ARG...]",
		Short: "Supervise a training command: restart what fails, save before it is stopped",
		Long: `Run CMD as a process group of its own until it is done.

What fails is started again as the policy for its kind of failure says (--policy
FILE): how often, after which wait, from which checkpoint, with which change.
The kind is told from exit code and signal, the kernel, the agent, and known
words in the output. The run ends when the same failure comes a third time in a
row without progress, the same Python exception a second time at the same step,
or after the kind's retries without progress.

SIGTERM and SIGINT have the run saved and stopped: by the agent, where --grace
is long enough for that, or else the last checkpoint is confirmed; without an
agent CMD itself gets the signal. Near the end of the grace CMD's process group
gets SIGTERM, and at the end SIGKILL. A second signal does not wait. SIGUSR1
has the run saved and lets it go on.

The exit code is CMD's (but 1, not 75, when CMD asks for yet another restart
and the run has ended), 128 and the number of the signal that ended CMD or
stopped the run, 124 when a limit ended it, 127 when CMD is not found and 126
when it cannot be run. With --requeue-exit-code N it is N when the run was
preempted or should go on on another node.`,
		Example: `  vigil-trainer run --socket /run/vigil/agent.sock -- torchrun train.py
  vigil-trainer run --run-id digits-7 -- vigil-trainer train --steps 5000
  vigil-trainer run --log-dir logs --requeue-exit-code 99 --notices aws -- srun train.sh`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return fault.New(fault.Invalid, "run: there is no command; want run [flags] -- CMD [ARG...]")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			config.Command, config.Socket = args, a.socket
			config.RunID = cmp.Or(config.RunID, newRunID("run"))
			if !cmd.Flags().Changed("silent-after") && supervise.RunsElsewhere(args, os.Environ()) {
				config.Health.SilentAfter = 0
			}
			return a.supervise(cmd, config, more)
		},
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false)
	flags.StringVar(&config.RunID, "run-id", os.Getenv(protocol.EnvRunID), "the run's `id` (env VIGIL_RUN_ID); made up when not given")
	flags.IntVar(&more.maxRestarts, "max-restarts", -1, "restarts in a row without progress before giving up, for every kind of failure that is tried again (default: as the policies say)")
	flags.StringArrayVar(&more.config, "config", nil, "`file` with the run's settings, such as deploy/config/production_config.yaml; may be given several times")
	flags.StringVar(&more.policy, "policy", "", "`file` with what follows each kind of failure")
	flags.DurationVar(&config.Grace, "grace", config.Grace, "time to save and end when told to stop")
	flags.IntVar(&config.RequeueExitCode, "requeue-exit-code", 0, "exit `code` that has the scheduler queue the run again; 0: none has")
	flags.StringVar(&config.Output.Dir, "log-dir", "", "`directory` that the command's output is kept in, rotated")
	flags.Int64Var(&config.Output.MaxBytes, "log-max-bytes", config.Output.MaxBytes, "size of one file in --log-dir")
	flags.IntVar(&config.Output.Files, "log-files", config.Output.Files, "files that are kept in --log-dir")
	flags.StringSliceVar(&more.notices, "notices", nil, "clouds whose metadata service is asked for preemption notices: aws, gcp, azure")
	flags.StringVar(&more.metadataURL, "metadata-url", "", "`address` of that service; empty: the cloud's own")
	watchFlags(flags, &config)
	return cmd
}

// watchFlags are about how the command is watched and held in.
func watchFlags(flags *pflag.FlagSet, config *supervise.Config) {
	flags.DurationVar(&config.Health.SilentAfter, "silent-after", config.Health.SilentAfter, "time after which a command that tells no steps counts as hanging when it prints nothing, uses no CPU, moves no data and no GPU is busy; 0: never, as for srun, mpirun and others whose processes are elsewhere unless it is given")
	flags.BoolVar(&config.DrainNode, "drain-node", false, "have SLURM drain this node (scontrol update) when the run is given up here and its policy says exclude_node; needs an operator's rights")
	flags.BoolVar(&config.ControlGroup, "control-group", true, "give each attempt's processes a control group of their own, where one can be made")
	flags.Int64Var(&config.Limits.MemoryBytes, "max-memory-bytes", 0, "memory of the host that the command's processes may use together; 0: no limit. Needs a control group")
	flags.DurationVar(&config.Health.HangAfter, "hang-after", 0, "time without a step after which the run counts as hanging; 0: it follows from the steps before")
}

// runFlags is what flags say that is not yet the supervisor's configuration.
type runFlags struct {
	maxRestarts int
	policy      string
	config      []string
	notices     []string
	metadataURL string
}

// settle adds to a configuration what the flags name.
func (f runFlags) settle(cmd *cobra.Command, config *supervise.Config, log *slog.Logger) (err error) {
	if cmd.Flags().Changed("max-restarts") && f.maxRestarts < 0 {
		return fault.New(fault.Invalid, "run: --max-restarts is %d restarts; want at least 0", f.maxRestarts)
	}
	if config.Policy, err = policy.Load(f.policy); err != nil {
		return err
	}
	if f.maxRestarts >= 0 {
		config.Policy.MaxRestarts = f.maxRestarts
	}
	return f.apply(cmd, config, log)
}

// apply gives the settings in files their effect, and says of each which. A flag
// that is given wins over a setting.
func (f runFlags) apply(cmd *cobra.Command, config *supervise.Config, log *slog.Logger) error {
	if len(f.config) == 0 {
		return nil
	}
	file, err := settings.Load(f.config...)
	if err != nil {
		return err
	}
	grace := config.Grace
	effects := settings.Apply(file, config)
	if cmd.Flags().Changed("grace") {
		config.Grace = grace
	}
	config.NeedEncryption = effects.NeedsEncryption
	if config.Settings, err = settings.JSON(file); err != nil {
		return err
	}
	for _, e := range effects.List {
		log.Info("setting", "key", e.Key, "value", e.Value, "by", e.By, "what", e.What)
	}
	return nil
}

// sources gives who is asked for preemption notices.
func (f runFlags) sources() ([]preempt.Source, error) {
	var all []preempt.Source
	for _, name := range f.notices {
		s, err := preempt.New(name, f.metadataURL)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// supervise runs the command under supervision and keeps its exit code.
func (a *app) supervise(cmd *cobra.Command, config supervise.Config, more runFlags) error {
	said, log, err := a.said(cmd.Context())
	if err != nil {
		return err
	}
	defer said.flush()
	if err := more.settle(cmd, &config, log); err != nil {
		return err
	}
	sources, err := more.sources()
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
	signals := make(chan os.Signal, queuedSignals)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1)
	defer signal.Stop(signals)
	deps := supervise.Deps{
		Log: log, Tracer: said.tracer, Opened: said.through, Closing: said.flush, Signals: signals, Environ: os.Environ(),
		Stdout: a.stdout, Stderr: a.stderr, Random: rand.Float64, OwnProcess: true, Notices: sources,
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
