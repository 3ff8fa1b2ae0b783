package supervise

import (
	"fmt"
	"time"
)

// history is what the endings so far say about the next restart.
type history struct {
	config   Config
	random   func() float64
	failures int    // in a row without progress
	same     int    // of these, with the same explanation
	last     string // explanation
	best     int64  // highest step that is known
	counts   bool   // the command tells its steps
}

// verdict is what follows an ending.
type verdict struct {
	restart bool
	wait    time.Duration
	why     string // when there is no restart
}

// next takes an ending in and says what follows.
func (h *history) next(e *ending) verdict {
	if e.stop {
		return verdict{why: e.explanation}
	}
	h.counts = h.counts || e.stepKnown
	progress := !h.counts && e.lasted >= h.config.Steady
	if e.stepKnown {
		progress = e.step > h.best
		h.best = max(h.best, e.step)
	}
	switch {
	case progress || e.explanation != h.last:
		h.same = 1
	case h.counts || e.said:
		// A bare exit code is not enough to call two failures the same.
		h.same++
	}
	if progress {
		h.failures = 0
	}
	h.last = e.explanation
	switch {
	case h.same >= h.config.SameFailures:
		return verdict{why: fmt.Sprintf("no progress, the same failure %d times in a row: %s", h.same, e.explanation)}
	case h.failures >= h.config.MaxRestarts:
		return verdict{why: fmt.Sprintf("gave up after %d restarts without progress: %s", h.failures, e.explanation)}
	}
	wait := h.config.Backoff.Wait(h.failures, h.random())
	h.failures++
	return verdict{restart: true, wait: wait}
}
