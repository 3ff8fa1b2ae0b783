package main

import (
	"cmp"
	"context"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/vigil-ml/vigil/trainer"
	"github.com/vigil-ml/vigil/trainer/multitask"
)

func trainCommand(a *app) *cobra.Command {
	digits := multitask.DefaultPlan()
	config := multitask.LoopConfig{Training: digits.Training}
	var runID, name, project, plan string
	cmd := &cobra.Command{
		Use:   "train [flags]",
		Short: "Train the reference model: two overlaid handwritten digits, or what a plan says",
		Long: `Train a model of several tasks. Without --plan: a shared encoder with three heads,
which digit is on the left, which is on the right, how much ink there is; the data
is in the program. A plan is YAML and names data (CSV, Parquet), model, tasks, how
they weigh, and optimizer: see docs/multi-task.md. Parameters after N steps are the
same bit for bit for the same seed, wherever training was interrupted and resumed.

A value that is not finite is met before the optimizer uses it: the state of
the step before is saved as the agent orders, and the process exits with 75, to
be restarted from there. Without an agent nothing can be saved, and the exit
code is the same. SIGTERM and SIGINT save and stop; SIGUSR1 saves.

--inject has faults come in the first attempt: nan-grad@STEP, nan-param@STEP,
kill@STEP, hang@STEP, diverge@STEP, separated by commas; with every-attempt among them
they come in every attempt.`,
		Example: `  vigil-trainer train --steps 2000
  vigil-trainer train --plan plan.yaml --save model.vmt
  vigil-trainer run -- vigil-trainer train --inject nan-grad@800,kill@1200`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := follow(cmd, plan, &config, &name); err != nil {
				return err
			}
			if err := honour(cmd, &config, &name); err != nil {
				return err
			}
			return a.train(cmd.Context(), config, runID, name, project)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&plan, "plan", "", "`file` that says what is learnt, and how; flags that are given win over it")
	flags.StringVar(&config.SaveTo, "save", "", "`file` that the trained model is written to at the end, for eval and predict")
	flags.StringVar(&runID, "run-id", "", "the run's `id` (env VIGIL_RUN_ID); made up when not given")
	flags.StringVar(&name, "name", digits.Name, "what is trained, for people")
	flags.Int64Var(&config.Steps, "steps", digits.Steps, "steps to make in all")
	flags.Uint64Var(&config.Training.Seed, "seed", config.Training.Seed, "decides weights and data")
	flags.IntVar(&config.Training.Batch, "batch", config.Training.Batch, "samples of one pass; a step is one, or as many as the plan's accumulate says")
	flags.Float64Var(&config.Training.LearningRate, "learning-rate", config.Training.LearningRate, "the optimizer's learning rate")
	flags.Int64Var(&config.CheckpointEvery, "checkpoint-every", digits.CheckpointEvery, "`steps` between checkpoints; 0 for none but the last")
	flags.Int64Var(&config.EvaluateEvery, "evaluate-every", digits.EvaluateEvery, "`steps` between evaluations on held-out data; 0 for none but the last")
	flags.Int64Var(&config.RestartEvery, "restart-rate-every", 0, "`steps` from one restart of the learning rate to the next, with a cosine between; 0 for a constant rate")
	flags.StringVar(&project, "project", "", "the project that the run belongs to; detection can be set by it")
	flags.DurationVar(&config.Pace, "pace", 0, "a step takes at least this long")
	flags.Var(&config.Faults, "inject", "faults to come")
	return cmd
}

// follow takes what a plan says, where no flag says otherwise.
func follow(cmd *cobra.Command, path string, config *multitask.LoopConfig, name *string) error {
	if path == "" {
		return nil
	}
	plan, err := multitask.LoadPlan(path)
	if err != nil {
		return err
	}
	given, flags := cmd.Flags().Changed, *config
	config.Training = plan.Training
	for flag, set := range map[string]func(){
		"seed":          func() { config.Training.Seed = flags.Training.Seed },
		"batch":         func() { config.Training.Batch = flags.Training.Batch },
		"learning-rate": func() { config.Training.LearningRate = flags.Training.LearningRate },
	} {
		if given(flag) {
			set()
		}
	}
	for flag, set := range map[string]func(){
		"steps":            func() { config.Steps, config.Epochs = plan.Steps, plan.Epochs },
		"checkpoint-every": func() { config.CheckpointEvery = plan.CheckpointEvery },
		"evaluate-every":   func() { config.EvaluateEvery = plan.EvaluateEvery },
		"name":             func() { *name = plan.Name },
	} {
		if !given(flag) {
			set()
		}
	}
	return nil
}

// train makes one attempt of the reference run.
func (a *app) train(ctx context.Context, config multitask.LoopConfig, runID, name, project string) error {
	said, log, err := a.said(ctx)
	if err != nil {
		return err
	}
	defer said.flush()
	training, err := multitask.New(config.Training)
	if err != nil {
		return err
	}
	who, err := trainer.FromEnvironment(os.Getenv)
	if err != nil {
		return err
	}
	who.Socket = a.socket
	who.RunID = cmp.Or(runID, who.RunID, newRunID("digits"))
	who.Framework, who.Name, who.TotalSteps = multitask.Format, name, training.StepsOf(config.Steps, config.Epochs)
	who.Settings = map[string]string{
		"seed":             strconv.FormatUint(config.Training.Seed, 10),
		"batch":            strconv.Itoa(config.Training.Batch),
		"learning_rate":    strconv.FormatFloat(config.Training.LearningRate, 'g', -1, 64),
		"checkpoint_every": strconv.FormatInt(training.StepsOf(config.CheckpointEvery, config.SaveEveryEpochs), 10),
	}
	if project != "" {
		who.Settings["project"] = project
	}
	if method := config.Training.Balance.Method; method != "equal" {
		who.Settings["balance"] = method
	}
	if faults := config.Faults.String(); faults != "" {
		who.Settings["inject"] = faults
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer stop()
	context.AfterFunc(ctx, stop) // a second one kills
	saveNow := make(chan os.Signal, 1)
	signal.Notify(saveNow, syscall.SIGUSR1)
	defer signal.Stop(saveNow)

	session, err := trainer.Connect(ctx, who, trainer.Deps{Log: log, Tracer: said.tracer})
	if err != nil {
		return err
	}
	said.through(session)
	log.Info("train", "run", who.RunID, "attempt", who.Attempt, "steps", who.TotalSteps)
	err = multitask.Run(ctx, config, multitask.LoopDeps{Session: session, Log: log, Out: a.stderr, SaveNow: saveNow, Training: training})
	said.flush()
	if closeErr := session.Close(context.WithoutCancel(ctx)); closeErr != nil {
		log.Warn("the agent does not know all of how it went", "cause", closeErr)
	}
	return err
}
