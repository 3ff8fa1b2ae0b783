package main

import (
	"bytes"
	"fmt"
	"io"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/trainer/multitask"
	"github.com/vigil-ml/vigil/trainer/multitask/study"
)

func compareCommand(a *app) *cobra.Command {
	config := study.Config{Points: 25}
	var plan, methods, title, table, figure string
	var steps int64
	cmd := &cobra.Command{
		Use:   "compare [flags]",
		Short: "Compare ways to weigh tasks, over several seeds",
		Long: `Train the same problem with every method, from several seeds, and tell how each ends
with 95 % confidence intervals. The first method is the baseline of the last column:
by how many percent the tasks are better, on average over tasks (delta-m).

With --grid static weights take part: each task but the first is tried with each of the
grid's weights from a seed of its own, and the best is trained as the others are. They
were chosen on the same held-out data that all are scored on, which favours them.`,
		Example: `  vigil-trainer compare --seeds 5 --methods all --grid 0.3,1,3
  vigil-trainer compare --plan docs/multi-task/toy-2.yaml --methods "equal; gradnorm:{alpha: 0.12}" --figure toy.svg`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if config.Plan, err = planOf(plan); err != nil {
				return err
			}
			if steps > 0 {
				config.Plan.Steps, config.Plan.Epochs = steps, 0
			}
			if config.Methods, err = study.Parse(methods); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			began := time.Now()
			all, err := study.Run(ctx, config, func(line string) {
				_, _ = fmt.Fprintf(a.stderr, "%6.0f s  %s\n", time.Since(began).Seconds(), line)
			})
			if err != nil {
				return err
			}
			return a.present(all, title, table, figure)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&plan, "plan", "", "`file` that says what is learnt; the overlaid digits without one")
	flags.StringVar(&methods, "methods", "equal; uncertainty; gradnorm", "`methods`, with their settings: all, or such as \"equal; gradnorm:{alpha: 0.12}\"")
	flags.IntVar(&config.Seeds, "seeds", 5, "trainings of each method")
	flags.Int64Var(&steps, "steps", 0, "steps of each training; 0: as the plan says")
	flags.Float64SliceVar(&config.Grid, "grid", nil, "`weights` to choose static ones from")
	flags.StringVar(&title, "title", "Sum of normalized held-out losses", "`text` above the figure")
	flags.StringVar(&table, "table", "", "`file` for the table, as Markdown; without one it is printed")
	flags.StringVar(&figure, "figure", "", "`file` for the figure, as SVG")
	return cmd
}

// present writes what came out.
func (a *app) present(all []study.Outcome, title, table, figure string) error {
	var b bytes.Buffer
	if err := study.Table(&b, all); err != nil {
		return err
	}
	if table == "" {
		_, _ = io.Copy(a.stdout, &b)
	} else if err := durable.WriteFile(durable.OS{}, table, b.Bytes(), 0o644); err != nil {
		return err
	}
	if figure == "" {
		return nil
	}
	b.Reset()
	if err := study.Figure(&b, title, all); err != nil {
		return err
	}
	return durable.WriteFile(durable.OS{}, figure, b.Bytes(), 0o644)
}

// planOf reads a plan, or gives that of the digits.
func planOf(path string) (multitask.Plan, error) {
	if path == "" {
		return multitask.DefaultPlan(), nil
	}
	return multitask.LoadPlan(path)
}
