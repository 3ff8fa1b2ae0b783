package multitask

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/vigil-ml/vigil/trainer"
	"github.com/vigil-ml/vigil/trainer/balance"
)

const (
	lineEvery   = 2 * time.Second
	memoryEvery = 500 * time.Millisecond // a look costs system calls
)

// progress writes a line now and then.
type progress struct {
	out        io.Writer
	total      int64
	began      time.Time
	beganAt    int64     // steps made before
	line       time.Time // of the last line
	lineAt     int64     // steps at the last line
	loss       float64   // sum since the last line
	correct    []int     // by task, since the last line
	samples    int       // since the last line
	training   *Training
	memoryRead time.Time
}

func newProgress(out io.Writer, training *Training, total int64) *progress {
	now, step := time.Now(), training.Step()
	return &progress{
		out: out, training: training, total: total, began: now, beganAt: step, line: now, lineAt: step,
		correct: make([]int, len(training.Tasks())),
	}
}

// step counts a step and writes a line when it is time for one.
func (p *progress) step(step int64, o Outcome) {
	p.loss += o.Losses.Total()
	for i, correct := range o.Correct {
		p.correct[i] += correct
	}
	p.samples += p.training.config.Batch * p.training.config.Accumulate
	now := time.Now()
	if elapsed := now.Sub(p.line); elapsed >= lineEvery || step == p.total {
		steps, shares := step-p.lineAt, ""
		for i, task := range p.training.Tasks() {
			if task.Kind == balance.Classification {
				shares += fmt.Sprintf("  %s %.1f %%", task.Name, 100*float64(p.correct[i])/float64(p.samples))
			}
		}
		_, _ = fmt.Fprintf(p.out, "step %d/%d  loss %.4f%s  %.0f steps/s\n", step, p.total,
			p.loss/float64(steps), shares, float64(steps)/elapsed.Seconds())
		p.line, p.lineAt, p.loss, p.samples = now, step, 0, 0
		clear(p.correct)
	}
}

// last writes how it went.
func (p *progress) last(score Score, digest string) {
	_, _ = fmt.Fprintf(p.out, "done  %d steps in %.1f s  held out: %s\n",
		p.training.Step()-p.beganAt, time.Since(p.began).Seconds(), score)
	_, _ = fmt.Fprintf(p.out, "parameters sha256 %s\n", digest)
}

// String is the score on a line, for people.
func (s Score) String() string {
	var parts []string
	for _, task := range s.Tasks {
		if task.Classes {
			parts = append(parts, fmt.Sprintf("%s %.1f %%", task.Name, 100*task.Accuracy))
		} else {
			parts = append(parts, fmt.Sprintf("%s off by %.2f", task.Name, task.MAE))
		}
	}
	return strings.Join(parts, "  ")
}

// residentBytes gives the process' memory now and then, and is unknown
// otherwise and where /proc is not.
func (p *progress) residentBytes() trainer.Measured[int64] {
	now := time.Now()
	if now.Sub(p.memoryRead) < memoryEvery {
		return trainer.Measured[int64]{}
	}
	p.memoryRead = now
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return trainer.Measured[int64]{}
	}
	var size, resident int64 // in pages
	if _, err := fmt.Sscan(string(text), &size, &resident); err != nil {
		return trainer.Measured[int64]{}
	}
	return trainer.Known(resident * int64(os.Getpagesize()))
}
