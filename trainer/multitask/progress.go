package multitask

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/vigil-ml/vigil/trainer"
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
	correct    [2]int    // since the last line
	samples    int       // since the last line
	memoryRead time.Time
}

func newProgress(out io.Writer, step, total int64) *progress {
	now := time.Now()
	return &progress{out: out, total: total, began: now, beganAt: step, line: now, lineAt: step}
}

// step counts a step and writes a line when it is time for one.
func (p *progress) step(step int64, o Outcome, batch int) {
	p.loss += o.Losses.Total()
	p.correct[0] += o.Correct[0]
	p.correct[1] += o.Correct[1]
	p.samples += batch
	now := time.Now()
	if elapsed := now.Sub(p.line); elapsed >= lineEvery || step == p.total {
		steps := step - p.lineAt
		_, _ = fmt.Fprintf(p.out, "step %d/%d  loss %.4f  left %.1f %%  right %.1f %%  %.0f steps/s\n", step, p.total,
			p.loss/float64(steps), p.share(0), p.share(1), float64(steps)/elapsed.Seconds())
		p.line, p.lineAt, p.loss, p.correct, p.samples = now, step, 0, [2]int{}, 0
	}
}

func (p *progress) share(head int) float64 {
	return 100 * float64(p.correct[head]) / float64(p.samples)
}

// last writes how it went.
func (p *progress) last(score Score, digest string) {
	_, _ = fmt.Fprintf(p.out, "done  %d steps in %.1f s  held out: left %.1f %%  right %.1f %%  ink off by %.2f\n",
		p.total-p.beganAt, time.Since(p.began).Seconds(), 100*score.Left, 100*score.Right, score.InkError)
	_, _ = fmt.Fprintf(p.out, "parameters sha256 %s\n", digest)
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
