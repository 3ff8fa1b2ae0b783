package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/trainer/multitask"
	"github.com/vigil-ml/vigil/trainer/multitask/data"
)

// saved is the flags that name a trained model and what it is asked about.
type saved struct {
	plan, checkpoint, data string
}

func (s *saved) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&s.plan, "plan", "", "`file` that says what was learnt; the overlaid digits without one")
	flags.StringVar(&s.checkpoint, "checkpoint", "", "`file` with the training's state, or the directory of an exported checkpoint")
	flags.StringVar(&s.data, "data", "", "`file` with rows to ask about, like that of the plan; without one the rows that are held out")
	_ = cmd.MarkFlagRequired("checkpoint") // fails for a flag that is not there
}

// open gives the trained model, and the source whose held-out samples count.
func (s *saved) open() (*multitask.Training, data.Source, error) {
	plan, err := planOf(s.plan)
	if err != nil {
		return nil, nil, err
	}
	training, err := multitask.New(plan.Training)
	if err != nil {
		return nil, nil, err
	}
	path := s.checkpoint
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, multitask.StateFile)
	}
	state, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fault.Mark(fault.NotFound, fmt.Errorf("read checkpoint: %w", err))
	}
	if err := training.Load(state); err != nil {
		return nil, nil, err
	}
	if s.data == "" {
		return training, training.Source(), nil
	}
	table, ok := training.Source().(*data.Table)
	if !ok {
		return nil, nil, fault.New(fault.Invalid, "read --data: the plan's data is no table")
	}
	other, err := table.Holding(s.data)
	return training, other, err
}

func evalCommand(a *app) *cobra.Command {
	var s saved
	cmd := &cobra.Command{
		Use:   "eval --checkpoint FILE [flags]",
		Short: "Score a trained model, as JSON",
		Example: `  vigil-trainer train --plan plan.yaml --save model.vmt
  vigil-trainer eval --plan plan.yaml --checkpoint model.vmt --data next-month.csv`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			training, source, err := s.open()
			if err != nil {
				return err
			}
			score := training.EvaluateOn(source)
			result := score.Metrics()
			for i, task := range score.Tasks {
				if loss := score.Losses[i]; loss == loss {
					result[task.Name+"_loss"] = loss
				}
			}
			out := json.NewEncoder(a.stdout)
			out.SetIndent("", "  ")
			if err := out.Encode(result); err != nil {
				return fmt.Errorf("write scores: %w", err)
			}
			return nil
		},
	}
	s.flags(cmd)
	return cmd
}

func predictCommand(a *app) *cobra.Command {
	var s saved
	cmd := &cobra.Command{
		Use:   "predict --checkpoint FILE [flags]",
		Short: "Have a trained model tell what it takes rows for, as CSV",
		Long: `Write one line for each row, in the order of the rows: for a classifier its class and
how likely the model takes that to be, for a regression the number, in units of the data.
The columns of the tasks need not be in --data.`,
		Example: `  vigil-trainer predict --plan plan.yaml --checkpoint model.vmt --data new.csv > told.csv`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			training, source, err := s.open()
			if err != nil {
				return err
			}
			return predict(training, source, a.stdout)
		},
	}
	s.flags(cmd)
	return cmd
}

// predict writes what a model says of a source's held-out samples.
func predict(training *multitask.Training, source data.Source, w io.Writer) error {
	out, header := csv.NewWriter(w), []string(nil)
	targets := training.Targets()
	for _, target := range targets {
		header = append(header, target.Name)
		if target.Classes > 0 {
			header = append(header, target.Name+"_chance")
			continue
		}
		for k := 1; k < target.Outputs; k++ {
			header = append(header, fmt.Sprintf("%s_%d", target.Name, k+1))
		}
	}
	_ = out.Write(header) // Flush's error counts
	training.Predict(source, func(p multitask.Prediction) {
		for row := range p.Rows {
			var line []string
			for i, target := range targets {
				if target.Classes == 0 {
					for k := range target.Outputs {
						line = append(line, strconv.FormatFloat(p.Number(i, row, k), 'g', 6, 64))
					}
					continue
				}
				class, chance := p.Class(i, row)
				line = append(line, class, strconv.FormatFloat(chance, 'f', 4, 64))
			}
			_ = out.Write(line)
		}
	})
	out.Flush()
	if err := out.Error(); err != nil {
		return fmt.Errorf("write predictions: %w", err)
	}
	return nil
}
