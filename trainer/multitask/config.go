package multitask

import (
	"math"

	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/trainer/balance"
	"github.com/vigil-ml/vigil/trainer/multitask/data"
	"github.com/vigil-ml/vigil/trainer/multitask/network"
	"github.com/vigil-ml/vigil/trainer/multitask/optimize"
)

const (
	maxBatch      = 4096 // larger ones only waste memory here
	maxAccumulate = 256
)

// Plan is what a plan file says: what is learnt, and for how long.
type Plan struct {
	// Name is what is trained, for people.
	Name string `yaml:"name"`
	// Steps is the steps to make in all; Epochs, unless 0, takes its place.
	Steps  int64 `yaml:"steps"`
	Epochs int64 `yaml:"epochs"`
	// EvaluateEvery and CheckpointEvery are steps from one to the next; 0: none but
	// the last.
	EvaluateEvery   int64  `yaml:"evaluate_every"`
	CheckpointEvery int64  `yaml:"checkpoint_every"`
	Training        Config `yaml:"training"`
}

// DefaultPlan is the overlaid digits.
func DefaultPlan() Plan {
	return Plan{Name: "two overlaid digits", Steps: 2000, EvaluateEvery: 500, CheckpointEvery: 1000, Training: Defaults()}
}

// planCosineEvery is how often the tasks of a plan are seen to conflict or not,
// where the plan does not say.
const planCosineEvery = 10

// LoadPlan reads a plan file over the defaults, but that heads begin as Xavier has
// it and that every tenth step looks at how the tasks' gradients agree.
func LoadPlan(path string) (Plan, error) {
	plan := DefaultPlan()
	plan.Name, plan.Training.Balance.CosineEvery, plan.Training.Model.HeadInit = path, planCosineEvery, network.Xavier
	err := conf.Load(path, &plan)
	return plan, err
}

// Config is what decides every bit of a training.
type Config struct {
	Seed         uint64  `yaml:"seed"`
	Batch        int     `yaml:"batch"`         // samples of one pass; 1 to 4096
	Accumulate   int     `yaml:"accumulate"`    // passes of a step; 1 to 256
	LearningRate float64 `yaml:"learning_rate"` // over 0
	// LabelSmoothing is the share of each label that is spread over all classes; 0
	// to below 1.
	LabelSmoothing float64 `yaml:"label_smoothing"`
	// ClipNorm is the L2 norm that the gradient is scaled down to; 0: never.
	ClipNorm  float64           `yaml:"clip_norm"`
	Optimizer optimize.Config   `yaml:"optimizer"`
	Schedule  optimize.Schedule `yaml:"schedule"`
	Data      data.Config       `yaml:"data"`
	Model     ModelConfig       `yaml:"model"`
	// Tasks are those of a table, in order; digits and toy bring their own, and what
	// is said here of one of them by its name is added to it.
	Tasks   []TaskConfig  `yaml:"tasks"`
	Balance BalanceConfig `yaml:"balance"`
	Stop    StopConfig    `yaml:"stop"`
}

// ModelConfig is what users say about the model.
type ModelConfig struct {
	// Trunk is shared, residual or mmoe; Hidden the widths of its layers, or of each
	// of mmoe's Experts.
	Trunk   string `yaml:"trunk"`
	Hidden  []int  `yaml:"hidden"`
	Experts int    `yaml:"experts"`
	// BatchNorm and Dropout are behind each layer of the trunk.
	BatchNorm bool    `yaml:"batch_norm"`
	Dropout   float64 `yaml:"dropout"`
	// HeadInit is how the heads' last layers begin: xavier or he.
	HeadInit string `yaml:"head_init"`
}

// TaskConfig is what users say about a task.
type TaskConfig struct {
	Name string `yaml:"name"`
	// Column is a table's column with the targets; empty: the task's name.
	Column string `yaml:"column"`
	// Kind is classification or regression; of a table's task only.
	Kind string `yaml:"kind"`
	// Hidden is the widths of the head's layers before its last.
	Hidden []int `yaml:"hidden"`
	// InitialLoss is what the loss counts as having been before training; 0: that of
	// the first step.
	InitialLoss float64 `yaml:"initial_loss"`
}

// BalanceConfig is how tasks are weighed.
type BalanceConfig struct {
	// Method is one of package balance, and Settings are its settings.
	Method   string   `yaml:"method"`
	Settings conf.Raw `yaml:"settings"`
	// CosineEvery is the steps from one look at the tasks' gradients on the last
	// shared layer to the next, for methods that need none; 0: no look.
	CosineEvery int64 `yaml:"cosine_every"`
}

// StopConfig ends a training before its last step.
type StopConfig struct {
	// Patience is how many evaluations in a row may be no better than the best; 0:
	// any number. MinImprovement is by which share of the held-out loss one must be
	// better; at least 0.
	Patience       int     `yaml:"patience"`
	MinImprovement float64 `yaml:"min_improvement"`
}

// Kinds of a table's tasks.
const (
	classification = "classification"
	regression     = "regression"
)

// Defaults is the overlaid digits: seed 1, batches of 64, a learning rate of
// 0.001, and two shared layers.
func Defaults() Config {
	return Config{
		Seed: 1, Batch: 64, Accumulate: 1, LearningRate: 1e-3,
		Optimizer: optimize.Defaults(), Schedule: optimize.DefaultSchedule(), Data: data.Defaults(),
		Model:   ModelConfig{Trunk: network.Shared, Hidden: []int{128, 64}, Experts: 4, HeadInit: network.He},
		Balance: BalanceConfig{Method: "equal"},
	}
}

// Check reports settings that cannot work.
func (c Config) Check(report func(key, format string, args ...any)) {
	if c.Batch < 1 || c.Batch > maxBatch {
		report("batch", "is %d; want 1 to %d", c.Batch, maxBatch)
	}
	if c.Accumulate < 1 || c.Accumulate > maxAccumulate {
		report("accumulate", "is %d; want 1 to %d", c.Accumulate, maxAccumulate)
	}
	if !(c.LearningRate > 0) || math.IsInf(c.LearningRate, 0) {
		report("learning_rate", "is %v; want a number over 0", c.LearningRate)
	}
	if !(c.LabelSmoothing >= 0 && c.LabelSmoothing < 1) {
		report("label_smoothing", "is %v; want 0 to below 1", c.LabelSmoothing)
	}
	if !(c.ClipNorm >= 0) || math.IsInf(c.ClipNorm, 0) {
		report("clip_norm", "is %v; want a number of at least 0", c.ClipNorm)
	}
	if c.Balance.CosineEvery < 0 {
		report("balance.cosine_every", "is %d; want at least 0", c.Balance.CosineEvery)
	}
	if c.Stop.Patience < 0 {
		report("stop.patience", "is %d; want at least 0", c.Stop.Patience)
	}
	if !(c.Stop.MinImprovement >= 0 && c.Stop.MinImprovement < 1) {
		report("stop.min_improvement", "is %v; want 0 to below 1", c.Stop.MinImprovement)
	}
	table := c.Data.Kind == "csv" || c.Data.Kind == "parquet"
	for _, task := range c.Tasks {
		if task.Name == "" {
			report("tasks", "has a task without a name")
		}
		if table && task.Kind != classification && task.Kind != regression {
			report("tasks", "has %q of kind %q; want %s or %s", task.Name, task.Kind, classification, regression)
		}
	}
}

// check is Check with the first mistake as an error.
func (c Config) check() (wrong error) {
	c.Check(func(key, format string, args ...any) {
		if wrong == nil {
			wrong = fault.New(fault.Invalid, "begin training: "+key+" "+format, args...)
		}
	})
	return wrong
}

// open opens the data that the tasks are about.
func (c Config) open() (data.Source, error) {
	var wanted []data.Wanted
	for _, task := range c.Tasks {
		column := task.Column
		if column == "" {
			column = task.Name
		}
		wanted = append(wanted, data.Wanted{Name: task.Name, Column: column, Classes: task.Kind == classification})
	}
	return data.Open(c.Data, wanted)
}

// settle gives what is said of each of the data's targets.
func (c Config) settle(targets []data.Target) (heads []network.Head, tasks []balance.Task, err error) {
	said := map[string]TaskConfig{}
	for _, task := range c.Tasks {
		said[task.Name] = task
	}
	for _, target := range targets {
		head := network.Head{Name: target.Name, Hidden: said[target.Name].Hidden, Outputs: target.Outputs}
		task := balance.Task{Name: target.Name, Kind: balance.Regression, InitialLoss: said[target.Name].InitialLoss}
		if target.Classes > 0 {
			head.Outputs, task.Kind = target.Classes, balance.Classification
		}
		heads, tasks = append(heads, head), append(tasks, task)
		delete(said, target.Name)
	}
	for name := range said {
		return nil, nil, fault.New(fault.Invalid, "begin training: the data has no task %q", name)
	}
	return heads, tasks, nil
}
