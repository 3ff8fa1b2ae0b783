package policy

import (
	"fmt"
	"time"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// Ending is how an attempt ended, as far as it decides what follows.
type Ending struct {
	Failure     commonv1.FailureKind
	Explanation string
	// Said tells that the explanation is the process' own, and so names its step.
	Said bool
	// Fingerprint names an exception; empty: there was none.
	Fingerprint string
	Step        int64 // the last step that finished
	StepKnown   bool
	Lasted      time.Duration
}

// Decision is what follows an ending.
type Decision struct {
	Restart bool
	Wait    time.Duration
	Failure commonv1.FailureKind // as it is judged with what was before
	Why     string               // one sentence
	From    From
	// SkipBatches and LearningRateScale are changes of the next attempt; 0 and 1
	// are none.
	SkipBatches       int64
	LearningRateScale float64
	ExcludeNode       bool
	Page              bool
}

// History is what the endings of a run say about the next restart. Its zero
// value has seen none; it is for one goroutine.
type History struct {
	failures    int    // in a row without progress
	same        int    // of these, with the same explanation
	tracebacks  int    // of these, with the same exception
	last        string // explanation
	fingerprint string
	best        int64   // highest step that is known
	counts      bool    // the command tells its steps
	rate        float64 // learning rate's scale so far; 0: 1
}

// Best is the highest step that any attempt made.
func (h *History) Best() int64 { return h.best }

// Next takes an ending in and decides by a configuration. Random is 0 to 1.
func (h *History) Next(c Config, e Ending, random float64) Decision {
	if progress := h.count(c, e); progress {
		h.failures = 0
	}
	failure := e.Failure
	if h.tracebacks >= c.SameTracebacks && ofProgram(e.Failure) {
		failure = commonv1.FailureKind_FAILURE_KIND_USER_ERROR
	}
	p := c.Of(failure)
	d := Decision{
		Failure: failure, From: p.From, LearningRateScale: 1, ExcludeNode: p.ExcludeNode, Page: p.Page == Always,
	}
	if why := h.giveUp(c, p, e, failure); why != "" {
		d.Why, d.Page = why, p.Page != Never
		return d
	}
	d.Restart, d.Wait = true, p.Backoff.Wait(h.failures, random)
	h.change(p, &d)
	d.Why = h.reason(p, d)
	h.failures++
	return d
}

// count compares an ending with those before and tells whether the run got on.
func (h *History) count(c Config, e Ending) bool {
	h.counts = h.counts || e.StepKnown
	progress := !h.counts && e.Lasted >= c.Steady
	if e.StepKnown {
		progress = e.Step > h.best
		h.best = max(h.best, e.Step)
	}
	switch {
	case progress || e.Explanation != h.last:
		h.same = 1
	case h.counts || e.Said:
		// A bare exit code is not enough to call two failures the same.
		h.same++
	}
	switch {
	case e.Fingerprint == "":
		h.tracebacks = 0
	case progress || e.Fingerprint != h.fingerprint:
		h.tracebacks = 1
	default:
		h.tracebacks++
	}
	h.last, h.fingerprint = e.Explanation, e.Fingerprint
	return progress
}

// ofProgram tells whether an exception with this failure can be the program's
// own fault. What memory, devices and the network do is not.
func ofProgram(kind commonv1.FailureKind) bool {
	switch kind {
	case commonv1.FailureKind_FAILURE_KIND_CRASH, commonv1.FailureKind_FAILURE_KIND_UNSPECIFIED,
		commonv1.FailureKind_FAILURE_KIND_USER_ERROR:
		return true
	}
	return false
}

// giveUp says why there is no restart; empty: there is one.
func (h *History) giveUp(c Config, p Policy, e Ending, failure commonv1.FailureKind) string {
	switch {
	case failure == commonv1.FailureKind_FAILURE_KIND_USER_ERROR && h.tracebacks >= c.SameTracebacks:
		return fmt.Sprintf("the same exception %d times at the same step: the program itself is at fault: %s", h.tracebacks, e.Explanation)
	case p.Retries == 0 && c.MaxRestarts != 0:
		return fmt.Sprintf("%s is not tried again: %s", Name(failure), e.Explanation)
	case h.same >= c.SameFailures:
		return fmt.Sprintf("no progress, the same failure %d times in a row: %s", h.same, e.Explanation)
	case h.failures >= p.Retries:
		return fmt.Sprintf("gave up after %d restarts without progress: %s", h.failures, e.Explanation)
	}
	return ""
}

// change adds what the next attempt does otherwise.
func (h *History) change(p Policy, d *Decision) {
	if h.rate == 0 {
		h.rate = 1
	}
	if h.failures >= p.ChangeAfter {
		d.SkipBatches = p.SkipBatches
		if p.LearningRateScale != 1 {
			h.rate *= p.LearningRateScale
		}
	}
	d.LearningRateScale = h.rate
}

// reason is a decision to restart in words.
func (h *History) reason(p Policy, d Decision) string {
	text := fmt.Sprintf("%s: restart %d of %d without progress, in %s, from the %s checkpoint",
		Name(d.Failure), h.failures+1, p.Retries, d.Wait.Round(time.Millisecond), d.From)
	if d.From == Nothing {
		text = fmt.Sprintf("%s: restart %d of %d without progress, in %s, from the beginning",
			Name(d.Failure), h.failures+1, p.Retries, d.Wait.Round(time.Millisecond))
	}
	if d.SkipBatches > 0 {
		text += fmt.Sprintf(", leaving out %d batches", d.SkipBatches)
	}
	if d.LearningRateScale != 1 {
		text += fmt.Sprintf(", with %g of the learning rate", d.LearningRateScale)
	}
	return text
}
