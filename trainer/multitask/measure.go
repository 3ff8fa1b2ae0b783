package multitask

import (
	"math"

	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	"github.com/vigil-ml/vigil/trainer"
	"github.com/vigil-ml/vigil/trainer/multitask/network"
)

// measureEvery is how many steps lie between two looks at parameters and units,
// which cost about as much as an update.
const measureEvery = 10

// restartFloor is the share of the learning rate that a cosine falls to.
const restartFloor = 0.1

// check refuses a loop that cannot be run.
func (c *LoopConfig) check() error {
	if c.Steps < 1 || c.CheckpointEvery < 0 || c.EvaluateEvery < 0 || c.RestartEvery < 0 || c.Pace < 0 {
		return fault.New(fault.Invalid,
			"begin training: %d steps, a checkpoint every %d, an evaluation every %d, a restart every %d, %s a step; want at least 1, 0, 0, 0 and 0",
			c.Steps, c.CheckpointEvery, c.EvaluateEvery, c.RestartEvery, c.Pace)
	}
	return nil
}

// health is how parameters and units are after a step; nothing is known of
// steps that were not measured.
type health struct {
	updateRatio   trainer.Measured[float64]
	parameterNorm trainer.Measured[float64]
	layers        []trainer.Layer // valid until the next step
}

// applyMeasured is Apply, and for every tenth step a look at what it did. It
// allocates nothing after the first.
func (t *Training) applyMeasured(rateScale float64) health {
	if (t.step+1)%measureEvery != 0 {
		t.Apply(rateScale)
		return health{}
	}
	t.before = append(t.before[:0], t.net.Parameters...)
	t.layers = t.layers[:0]
	t.net.Layers(func(layer network.Layer) {
		t.layers = append(t.layers, trainer.Layer{Name: layer.Name, Dead: trainer.Known(deadShare(layer.Out, layer.Units))})
	})
	t.Apply(rateScale)
	update, size := 0.0, 0.0
	for i, p := range t.net.Parameters {
		d := float64(p) - float64(t.before[i])
		update += d * d
		size += float64(p) * float64(p)
	}
	h := health{parameterNorm: trainer.Known(math.Sqrt(size)), layers: t.layers}
	if size > 0 {
		h.updateRatio = trainer.Known(math.Sqrt(update / size))
	}
	return h
}

// deadShare is the share of units that are zero in every row.
func deadShare(out []float32, units int) float64 {
	rows, dead := len(out)/units, 0
	for unit := range units {
		row := 0
		for row < rows && out[row*units+unit] == 0 {
			row++
		}
		if row == rows {
			dead++
		}
	}
	return float64(dead) / float64(units)
}

// rate is the share of the learning rate that a step gets: that of the schedule,
// or with restarts a cosine from 1 down to restartFloor, over and over (Loshchilov
// and Hutter, SGDR, 2017). It says when it restarts.
func (l *loop) rate(step int64) float64 {
	if l.config.RestartEvery == 0 {
		return l.training.config.Schedule.At(step, l.config.Steps)
	}
	at := (step - 1) % l.config.RestartEvery
	if at == 0 && step > 1 {
		l.deps.Session.Change(commonv1.PhaseKind_PHASE_KIND_LEARNING_RATE_RESTART)
	}
	wave := (1 + math.Cos(math.Pi*float64(at)/float64(l.config.RestartEvery))) / 2
	return restartFloor + (1-restartFloor)*wave
}

// evaluate makes the evaluation of the schedule when it is due.
func (l *loop) evaluate() {
	step := l.training.Step()
	if l.config.EvaluateEvery > 0 && step%l.config.EvaluateEvery == 0 && step < l.config.Steps {
		l.training.note(l.score())
	}
}

// score evaluates the model, says that training pauses for it, and reports what
// came out; once a step.
func (l *loop) score() Score {
	if l.scored.Step == l.training.Step() {
		return l.scored.Score
	}
	defer l.deps.Session.Phase(commonv1.PhaseKind_PHASE_KIND_EVALUATION)()
	score := l.training.Evaluate()
	l.scored = Point{Step: l.training.Step(), Score: score}
	tasks := make([]trainer.Task, len(score.Tasks))
	for i, task := range score.Tasks {
		tasks[i] = trainer.Task{Name: task.Name, Loss: trainer.Known(score.Losses[i])}
	}
	l.deps.Session.Evaluated(trainer.Evaluation{Loss: trainer.Known(score.Losses.Total()), Tasks: tasks, Metrics: score.Metrics()})
	return score
}
