package multitask

import (
	"strconv"

	"github.com/vigil-ml/vigil/trainer/multitask/data"
	"github.com/vigil-ml/vigil/trainer/multitask/network"
	"github.com/vigil-ml/vigil/trainer/multitask/score"
)

// Score is how well the model does on samples that it never saw.
type Score struct {
	Losses Losses
	Tasks  []TaskScore
}

// TaskScore is how well it does one task. What is not known is NaN.
type TaskScore struct {
	Name    string
	Classes bool // it tells classes, and numbers otherwise
	// Accuracy, F1 and AUC are 0 to 1; package score says how they are meant.
	Accuracy, F1, AUC float64
	// MAE is in units of the data; R2 is 1 at best.
	MAE, R2 float64
}

// Main is the measure by which the task is compared.
func (s TaskScore) Main() score.Measure {
	if s.Classes {
		return score.Measure{Value: s.Accuracy, HigherBetter: true}
	}
	return score.Measure{Value: s.MAE}
}

// Metrics is the score by names such as "left_accuracy".
func (s Score) Metrics() map[string]float64 {
	all := map[string]float64{}
	for _, task := range s.Tasks {
		values := map[string]float64{"mae": task.MAE, "r2": task.R2}
		if task.Classes {
			values = map[string]float64{"accuracy": task.Accuracy, "f1": task.F1, "auc": task.AUC}
		}
		for name, value := range values {
			if finite(value) {
				all[task.Name+"_"+name] = value
			}
		}
	}
	return all
}

// Evaluate scores the model on the samples that are held out. It uses the room of
// a batch: call it between steps, not between Compute and Apply.
func (t *Training) Evaluate() Score { return t.EvaluateOn(t.source) }

// EvaluateOn scores the model on what another source of the same shape holds out.
func (t *Training) EvaluateOn(source data.Source) Score {
	s := Score{Losses: make(Losses, len(t.tasks))}
	known := make([]float64, len(t.tasks))
	classes, numbers := make([]*score.Classes, len(t.tasks)), make([]score.Numbers, len(t.tasks))
	for i, target := range t.shape.Targets {
		classes[i] = score.NewClasses(target.Classes)
	}
	t.Predict(source, func(p Prediction) {
		for i, target := range t.shape.Targets {
			loss, _ := t.lose(i, p.batch, p.Rows, 0)
			before := known[i]
			for row := range p.Rows {
				if target.Classes > 0 {
					if label := p.batch.Labels[i][row]; label >= 0 {
						classes[i].Add(label, p.Chances(i, row))
						known[i]++
					}
					continue
				}
				for k := row * target.Outputs; k < (row+1)*target.Outputs; k++ {
					if truth := p.batch.Values[i][k]; truth == truth {
						numbers[i].Add(float64(t.net.Outputs(i)[k])*target.Unit, float64(truth)*target.Unit)
						known[i]++
					}
				}
			}
			s.Losses[i] += loss * (known[i] - before)
		}
	})
	for i, task := range t.tasks {
		s.Losses[i] /= known[i]
		one := TaskScore{Name: task.Name, Classes: t.shape.Targets[i].Classes > 0}
		if one.Classes {
			one.Accuracy, one.F1, one.AUC = classes[i].Accuracy(), classes[i].F1(), classes[i].AUC()
		} else {
			one.MAE, one.R2 = numbers[i].MAE(), numbers[i].R2()
		}
		s.Tasks = append(s.Tasks, one)
	}
	return s
}

// Prediction is what the model says of some samples. It is valid during the call
// that gets it.
type Prediction struct {
	Rows int

	training *Training
	batch    *data.Batch
	chances  []float32
}

// Predict has the model tell what a source of the training's shape holds out.
func (t *Training) Predict(source data.Source, each func(Prediction)) {
	for from := 0; ; {
		rows := source.Held(t.held, from)
		if rows <= 0 {
			return
		}
		t.net.Forward(t.held.Inputs, rows, network.Pass{})
		each(Prediction{Rows: rows, training: t, batch: t.held})
		from += rows
	}
}

// Chances gives how likely a classifier takes each class of a sample to be. It is
// valid until the next call.
func (p *Prediction) Chances(task, row int) []float32 {
	classes := p.training.shape.Targets[task].Classes
	p.chances = append(p.chances[:0], p.training.net.Outputs(task)[row*classes:(row+1)*classes]...)
	network.Softmax(p.chances, p.chances)
	return p.chances
}

// Class gives the class that a classifier takes a sample for, by its name where
// it has one, and how likely it takes that to be.
func (p *Prediction) Class(task, row int) (class string, chance float64) {
	chances := p.Chances(task, row)
	best := largest(chances)
	class = strconv.Itoa(best)
	if labels := p.training.shape.Targets[task].Labels; labels != nil {
		class = labels[best]
	}
	return class, float64(chances[best])
}

// Number gives what a regression says of a sample, in units of the data.
func (p *Prediction) Number(task, row, output int) float64 {
	target := p.training.shape.Targets[task]
	return float64(p.training.net.Outputs(task)[row*target.Outputs+output])*target.Unit + target.Mean
}

// Targets is what the tasks predict.
func (t *Training) Targets() []data.Target { return t.shape.Targets }

// Source is where the training's samples come from.
func (t *Training) Source() data.Source { return t.source }

// stopping is what early stopping remembers.
type stopping struct {
	Best float64 // the least held-out loss so far
	Bad  int     // evaluations since
}

// note takes in an evaluation.
func (t *Training) note(s Score) {
	if total := s.Losses.Total(); total < t.stop.Best*(1-t.config.Stop.MinImprovement) {
		t.stop = stopping{Best: total}
	} else {
		t.stop.Bad++
	}
}

// Stopped tells whether evaluations have not improved for too long.
func (t *Training) Stopped() bool {
	return t.config.Stop.Patience > 0 && t.stop.Bad >= t.config.Stop.Patience
}
