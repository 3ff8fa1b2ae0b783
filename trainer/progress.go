package trainer

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// progressEvery is how often the progress file is brought up to date.
const progressEvery = 250 * time.Millisecond

// unknownStep stands for no step: 0 is one, of a state that was saved before the
// first.
const unknownStep = -1

// Progress is what a supervisor finds of a training process, whatever became of
// it: that is how it tells failing again from getting on.
type Progress struct {
	Step     int64  // the last step finished or resumed from
	Resumed  string // the checkpoint that it went on from; empty: none
	GPUBytes int64  // GPU memory that it used last; 0: not known
}

// standing is the progress as the session has it.
type standing struct {
	mu      sync.Mutex
	known   bool
	now     Progress
	written Progress
}

func (s *standing) step(step int64, gpu Measured[int64]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known, s.now.Step = true, step
	if gpu.Known {
		s.now.GPUBytes = gpu.Value
	}
}

func (s *standing) resumed(step int64, checkpoint string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known, s.now.Step, s.now.Resumed = true, step, checkpoint
}

// news gives the progress when it is known and not written yet.
func (s *standing) news() (Progress, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.known || (s.now == s.written && s.written != Progress{}) {
		return Progress{}, false
	}
	s.written = s.now
	return s.now, true
}

// progressPath is beside the exit file.
func progressPath(exitFile string) string { return exitFile + ".step" }

// keepProgress leaves the progress where a supervisor finds it.
func (s *Session) keepProgress(ctx context.Context) error {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for ended := false; !ended; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			ended = true
		}
		if p, ok := s.standing.news(); ok {
			s.writeProgress(p)
		}
	}
	return nil
}

// writeProgress replaces the progress file; nobody needs it after a crash of
// the machine, so nothing is synced. The first line is the step alone.
func (s *Session) writeProgress(p Progress) {
	path := progressPath(s.config.ExitFile)
	text := fmt.Sprintf("%d\nresumed %s\ngpu_bytes %d\n", p.Step, p.Resumed, p.GPUBytes)
	err := os.WriteFile(path+".new", []byte(text), 0o600)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		s.deps.Log.Debug("the supervisor cannot be told the step", "cause", err)
	}
}

// ReadProgress gives the progress of the process with an exit file, and false
// when no step of it is known. What a line does not say is not known.
func ReadProgress(exitFile string) (Progress, bool) {
	text, err := os.ReadFile(progressPath(exitFile))
	if err != nil {
		return Progress{}, false
	}
	first, rest, _ := strings.Cut(string(text), "\n")
	var p Progress
	if p.Step, err = strconv.ParseInt(strings.TrimSpace(first), 10, 64); err != nil {
		return Progress{}, false
	}
	for line := range strings.Lines(rest) {
		switch key, value, _ := strings.Cut(strings.TrimSpace(line), " "); key {
		case "resumed":
			p.Resumed = value
		case "gpu_bytes":
			p.GPUBytes, _ = strconv.ParseInt(value, 10, 64)
		}
	}
	return p, true
}
