// Package inject plans faults inside a training process, for tests and for
// showing what becomes of them.
package inject

import (
	"slices"
	"strconv"
	"strings"

	"github.com/vigil-ml/vigil/internal/fault"
)

// Kind is what goes wrong.
type Kind string

// The kinds.
const (
	NaNGradient Kind = "nan-grad" // a gradient of the step is NaN
	Kill        Kind = "kill"     // the process kills itself with SIGKILL before the step
	Hang        Kind = "hang"     // the process stands still before the step and answers nothing
	Diverge     Kind = "diverge"  // the learning rate explodes from the step on
	// NaNParameter has a parameter turn NaN behind the step's update, unseen
	// until the next step: what is saved in between is poisoned.
	NaNParameter Kind = "nan-param"
)

const everyAttempt = "every-attempt"

// planned is one fault of a plan.
type planned struct {
	kind Kind
	step int64
}

// Plan is which faults come when; its zero value has none. Faults come in the
// first attempt alone, so that a restart gets over them, unless every-attempt
// is in the plan.
type Plan struct {
	faults []planned
	every  bool
}

// Parse reads a comma-separated list of KIND@STEP, and perhaps every-attempt.
func Parse(text string) (Plan, error) {
	var p Plan
	for entry := range strings.SplitSeq(text, ",") {
		entry = strings.TrimSpace(entry)
		switch entry {
		case "":
			continue
		case everyAttempt:
			p.every = true
			continue
		}
		kind, at, found := strings.Cut(entry, "@")
		step, err := strconv.ParseInt(at, 10, 64)
		switch {
		case !slices.Contains([]Kind{NaNGradient, NaNParameter, Kill, Hang, Diverge}, Kind(kind)):
			return Plan{}, fault.New(fault.Invalid, "there is no fault %q; want nan-grad, nan-param, kill, hang or diverge", kind)
		case !found || err != nil || step < 1:
			return Plan{}, fault.New(fault.Invalid, "%q names no step from 1 on; want %s@STEP", entry, kind)
		}
		p.faults = append(p.faults, planned{kind: Kind(kind), step: step})
	}
	if p.every && len(p.faults) == 0 {
		return Plan{}, fault.New(fault.Invalid, "%s needs a fault beside it", everyAttempt)
	}
	return p, nil
}

// At tells whether a fault comes in a step of an attempt.
func (p Plan) At(kind Kind, attempt uint32, step int64) bool {
	return p.any(attempt, func(f planned) bool { return f.kind == kind && f.step == step })
}

// From tells whether a fault that lasts has begun by a step of an attempt.
func (p Plan) From(kind Kind, attempt uint32, step int64) bool {
	return p.any(attempt, func(f planned) bool { return f.kind == kind && f.step <= step })
}

func (p Plan) any(attempt uint32, fits func(planned) bool) bool {
	return (attempt == 0 || p.every) && slices.ContainsFunc(p.faults, fits)
}

// String gives the plan as Parse reads it.
func (p Plan) String() string {
	var entries []string
	for _, f := range p.faults {
		entries = append(entries, string(f.kind)+"@"+strconv.FormatInt(f.step, 10))
	}
	if p.every {
		entries = append(entries, everyAttempt)
	}
	return strings.Join(entries, ",")
}

// Set reads a plan from a flag.
func (p *Plan) Set(text string) (err error) {
	*p, err = Parse(text)
	return err
}

// Type names the flag's value in help texts.
func (p *Plan) Type() string { return "FAULT@STEP,..." }
