// Package policy says what follows a failure: pure code that makes a decision
// out of a policy for each kind of failure and what happened before.
//
// A kind has one policy: how often it is tried again without progress, how long
// it is waited, from which checkpoint, with which change, and when a person is
// called. Progress is a step beyond all that earlier attempts made; an attempt
// of a command that tells no steps makes progress by lasting.
package policy

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// From is which checkpoint the next attempt goes on from.
type From string

// The checkpoints to go on from.
const (
	Latest  From = "latest"  // the newest that is good
	Earlier From = "earlier" // one before that which the failed attempt went on from
	Nothing From = "nothing" // none: begin anew
)

// Page is when a person is called.
type Page string

// The times to call a person.
const (
	Never  Page = "never"
	GiveUp Page = "give_up" // when it is not tried again
	Always Page = "always"  // at each failure
)

// Backoff is how long a restart waits: longer with every failure in a row.
type Backoff struct {
	Base   time.Duration `yaml:"base"`   // before the first restart
	Factor float64       `yaml:"factor"` // from one wait to the next; at least 1
	Cap    time.Duration `yaml:"cap"`    // the longest wait
}

// Wait gives the time before the restart that follows a number of failures
// without progress, counted from 0. Random, 0 to 1, takes up to half of it
// away, so that many runs that fell together do not rise together.
func (b Backoff) Wait(failures int, random float64) time.Duration {
	wait := min(float64(b.Base)*math.Pow(b.Factor, float64(failures)), float64(b.Cap))
	return time.Duration(wait * (1 - random/2))
}

// Policy is what follows one kind of failure.
type Policy struct {
	// Retries is how often it is tried again in a row without progress.
	Retries int     `yaml:"retries"`
	Backoff Backoff `yaml:"backoff"`
	From    From    `yaml:"from"`
	// ChangeAfter is how many failures in a row there must have been before
	// skip_batches and learning_rate_scale are used: a fault that comes once
	// needs no change, and without one a run ends as if nothing had happened.
	ChangeAfter int `yaml:"change_after"`
	// SkipBatches is how many batches are left out where the failure was met; 0:
	// none.
	SkipBatches int64 `yaml:"skip_batches"`
	// LearningRateScale multiplies the learning rate; 1: as it is.
	LearningRateScale float64 `yaml:"learning_rate_scale"`
	// ExcludeNode asks that the run's next place is another node: after the
	// retries here the supervisor ends with the exit code for requeuing.
	ExcludeNode bool `yaml:"exclude_node"`
	Page        Page `yaml:"page"`
}

// Check reports what cannot work.
func (p Policy) Check(report func(key, format string, args ...any)) {
	if p.Retries < 0 {
		report("retries", "is %d; want at least 0", p.Retries)
	}
	if p.Backoff.Base < 0 || p.Backoff.Cap < p.Backoff.Base || p.Backoff.Factor < 1 {
		report("backoff", "goes from %s by %g to %s; it must not shrink", p.Backoff.Base, p.Backoff.Factor, p.Backoff.Cap)
	}
	if p.From != Latest && p.From != Earlier && p.From != Nothing {
		report("from", "is %q; want latest, earlier or nothing", p.From)
	}
	if p.Page != Never && p.Page != GiveUp && p.Page != Always {
		report("page", "is %q; want never, give_up or always", p.Page)
	}
	if p.SkipBatches < 0 || p.ChangeAfter < 0 {
		report("skip_batches", "is %d after %d failures; want at least 0", p.SkipBatches, p.ChangeAfter)
	}
	if !(p.LearningRateScale > 0) || math.IsInf(p.LearningRateScale, 0) {
		report("learning_rate_scale", "is %g; want a number over 0", p.LearningRateScale)
	}
}

// Config is the policies of all kinds and what holds for all. Begin with
// Defaults.
type Config struct {
	// MaxRestarts, unless negative, takes the place of the retries of every kind
	// that is tried again at all.
	MaxRestarts int
	// SameFailures is how many times in a row the same explanation at the same
	// step ends the run: another restart would not get over it either.
	SameFailures int
	// SameTracebacks is the same for an exception of the program's own.
	SameTracebacks int
	// Steady is how long an attempt of a command that reports no steps must have
	// lasted to count as progress.
	Steady time.Duration
	// Kinds is by the kind's name in lower case, for instance gpu_oom; every kind
	// has one. A file is read by Load.
	Kinds map[string]Policy
}

// Name gives a kind's name as configuration has it.
func Name(kind commonv1.FailureKind) string {
	if kind == commonv1.FailureKind_FAILURE_KIND_UNSPECIFIED {
		return "unnamed"
	}
	return strings.ToLower(strings.TrimPrefix(kind.String(), "FAILURE_KIND_"))
}

// Check reports what cannot work, and kinds that do not exist.
func (c Config) Check(report func(key, format string, args ...any)) {
	if c.SameFailures < 1 || c.SameTracebacks < 1 {
		report("same_failures", "is %d, same_tracebacks %d; want at least 1", c.SameFailures, c.SameTracebacks)
	}
	if c.Steady <= 0 {
		report("steady", "is %s; want a positive duration", c.Steady)
	}
	for name, p := range c.Kinds {
		p.Check(func(key, format string, args ...any) { report("kinds."+name+"."+key, format, args...) })
	}
}

// Of gives a kind's policy.
func (c Config) Of(kind commonv1.FailureKind) Policy {
	p, ok := c.Kinds[Name(kind)]
	if !ok { // of a later version
		p = c.Kinds[Name(commonv1.FailureKind_FAILURE_KIND_CRASH)]
	}
	if c.MaxRestarts >= 0 && p.Retries > 0 {
		p.Retries = c.MaxRestarts
	}
	return p
}

// Error gives what is wrong with a configuration as one error of kind
// [fault.Invalid], nil when nothing is.
func (c Config) Error() error {
	var wrong []string
	c.Check(func(key, format string, args ...any) {
		wrong = append(wrong, key+": "+fmt.Sprintf(format, args...))
	})
	if len(wrong) == 0 {
		return nil
	}
	return fault.New(fault.Invalid, "recovery policy: %s", strings.Join(wrong, "; "))
}
