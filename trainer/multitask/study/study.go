// Package study compares ways to weigh tasks: every method trains the same
// problem from several seeds, and what comes out is told with confidence
// intervals, as a table and a figure.
package study

import (
	"context"
	"fmt"
	"math"
	"strings"

	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/trainer/balance"
	"github.com/vigil-ml/vigil/trainer/multitask"
	"github.com/vigil-ml/vigil/trainer/multitask/score"
)

// tuningSeed is that of the trainings that choose static weights: none of those
// that are told.
const tuningSeed = 1000

// Config is what is compared.
type Config struct {
	Plan    multitask.Plan
	Methods []Method
	Seeds   int // trainings of each method; at least 1
	// Grid is the weights that each task but the first is tried with, the first
	// having 1, to choose static ones; none: no static weights.
	Grid []float64
	// Points is how many scores a training gives.
	Points int
}

// Method is a way to weigh, with its settings as YAML.
type Method struct {
	Name     string
	Settings string
}

// String is the method as Parse reads it.
func (m Method) String() string {
	if m.Settings == "" {
		return m.Name
	}
	return m.Name + ":" + m.Settings
}

// Parse reads methods such as "equal; gradnorm:{alpha: 0.12}", or "all".
func Parse(text string) (methods []Method, err error) {
	if strings.TrimSpace(text) == "all" {
		for _, name := range balance.Methods().Names() {
			if name != "static" { // which the grid chooses
				methods = append(methods, Method{Name: name})
			}
		}
		return methods, nil
	}
	for part := range strings.SplitSeq(text, ";") {
		name, settings, _ := strings.Cut(part, ":")
		m := Method{Name: strings.TrimSpace(name), Settings: strings.TrimSpace(settings)}
		if m.Name == "" {
			return nil, fault.New(fault.Invalid, "read methods %q: one has no name", text)
		}
		methods = append(methods, m)
	}
	return methods, nil
}

// Outcome is what one method came to.
type Outcome struct {
	Method Method
	Tasks  []string
	Runs   [][]multitask.Point // by seed
}

// Final is a measure at the end of every run.
func (o Outcome) Final(measure func([]multitask.Point) float64) []float64 {
	var values []float64
	for _, run := range o.Runs {
		values = append(values, measure(run))
	}
	return values
}

// Normalized is the sum of the tasks' held-out losses, each over what it was
// before training, at a point of a run: GradNorm's measure, whatever the scales
// are.
func Normalized(run []multitask.Point, at int) float64 {
	sum := 0.0
	for i, loss := range run[at].Score.Losses {
		sum += loss / run[0].Score.Losses[i]
	}
	return sum
}

// Run trains everything. It tells each training as it ends.
func Run(ctx context.Context, c Config, tell func(string)) ([]Outcome, error) {
	if c.Seeds < 1 || c.Points < 1 || c.Plan.Steps < 1 && c.Plan.Epochs < 1 || len(c.Methods) == 0 {
		return nil, fault.New(fault.Invalid, "compare: %d methods, %d seeds, %d steps; want at least 1 of each", len(c.Methods), c.Seeds, c.Plan.Steps)
	}
	methods := c.Methods
	if len(c.Grid) > 0 {
		static, err := c.tune(ctx, tell)
		if err != nil {
			return nil, err
		}
		methods = append(methods[:len(methods):len(methods)], static)
	}
	var all []Outcome
	for _, method := range methods {
		o := Outcome{Method: method}
		for seed := range c.Seeds {
			run, names, err := c.train(ctx, method, uint64(seed+1))
			if err != nil {
				return nil, fmt.Errorf("train with %s, seed %d: %w", method, seed+1, err)
			}
			o.Runs, o.Tasks = append(o.Runs, run), names
			tell(fmt.Sprintf("%s, seed %d: %.4f  %s", method, seed+1, Normalized(run, len(run)-1), run[len(run)-1].Score))
		}
		all = append(all, o)
	}
	return all, nil
}

// train makes one training.
func (c Config) train(ctx context.Context, method Method, seed uint64) ([]multitask.Point, []string, error) {
	config := c.Plan.Training
	config.Seed, config.Data.Toy.Seed = seed, seed
	settings := method.Settings
	if settings == "" {
		settings = "{}"
	}
	text := fmt.Sprintf("method: %s\nsettings: %s\n", method.Name, settings)
	config.Balance = multitask.BalanceConfig{}
	if err := conf.Decode("method", []byte(text), &config.Balance); err != nil {
		return nil, nil, err
	}
	training, err := multitask.New(config)
	if err != nil {
		return nil, nil, err
	}
	var names []string
	for _, task := range training.Tasks() {
		names = append(names, task.Name)
	}
	steps := training.StepsOf(c.Plan.Steps, c.Plan.Epochs)
	run, err := multitask.Learn(ctx, training, steps, max(1, steps/int64(c.Points)))
	return run, names, err
}

// tune finds the static weights of the grid that do best, by the measure that
// methods are compared by, from a seed of its own.
func (c Config) tune(ctx context.Context, tell func(string)) (best Method, err error) {
	_, names, err := c.probe(ctx)
	if err != nil {
		return Method{}, err
	}
	best = Method{Name: "static"}
	least, at := math.Inf(1), make([]int, len(names)-1)
	for {
		weights := []string{names[0] + ": 1"}
		for i, k := range at {
			weights = append(weights, fmt.Sprintf("%s: %v", names[i+1], c.Grid[k]))
		}
		method := Method{"static", "{weights: {" + strings.Join(weights, ", ") + "}}"}
		run, _, err := c.train(ctx, method, tuningSeed)
		if err != nil {
			return best, err
		}
		value := Normalized(run, len(run)-1)
		tell(fmt.Sprintf("grid: %s: %.4f", method.Settings, value))
		if value < least {
			best, least = method, value
		}
		if !next(at, len(c.Grid)) {
			return best, nil
		}
	}
}

// probe makes a training of no steps.
func (c Config) probe(ctx context.Context) ([]multitask.Point, []string, error) {
	c.Plan.Steps, c.Plan.Epochs = 0, 0
	return c.train(ctx, Method{Name: "equal"}, tuningSeed)
}

// next counts through a grid.
func next(at []int, size int) bool {
	for i := range at {
		if at[i]++; at[i] < size {
			return true
		}
		at[i] = 0
	}
	return false
}

// delta is by how many percent each run is better than the baseline's of its
// seed.
func delta(o, baseline Outcome) []float64 {
	var values []float64
	for seed, run := range o.Runs {
		values = append(values, score.DeltaM(mains(run), mains(baseline.Runs[seed])))
	}
	return values
}

func mains(run []multitask.Point) (measures []score.Measure) {
	for _, task := range run[len(run)-1].Score.Tasks {
		measures = append(measures, task.Main())
	}
	return measures
}
