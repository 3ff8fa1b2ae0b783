// Package detect turns events into findings. A rule is a value, and its detector
// is a small machine that reads the events of one run, or of one node, in order.
// Nodes' events reach the detectors of the node and those of every run that
// trains on it; where a node's problem explains a run's, the run's finding names
// it as its cause.
//
// A detector's time is that of its events and it never reads the clock, so the
// same events give the same findings, live or replayed. Its memory does not
// grow with the length of the run. Rules live in package rules; the list of
// those that are used is the control plane's.
package detect

import (
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Rule is one kind of problem that is looked for.
type Rule struct {
	// Code is the finding's kind, for instance "nonfinite"; it names the page
	// docs/runbook/<code>.md.
	Code string
	// Title is the code for people, for instance "Non-finite value".
	Title string
	// Severity is that of a finding whose detector says none.
	Severity commonv1.Severity
	// Under names the kinds that explain this one: while a problem of such a
	// kind goes on, this rule's findings are dropped, as its consequences.
	Under []string
	// OnlyCaused says that a finding is worth saying only where a node's problem
	// explains it.
	OnlyCaused bool
	// New makes the detector of one run.
	New func() Detector
}

// Detector is the state of one rule for one run, all ranks together. It is
// used by one goroutine at a time.
type Detector interface {
	// Observe takes the run's next event and gives what it shows, mostly
	// nothing. It does not keep the event. A problem that several ranks have at
	// once is one finding that names the first of them. A detector starts a
	// finding with [FindingOf] and says the rest; the bank adds kind, id and,
	// where it is not said, severity.
	Observe(event *commonv1.Event) []*controlv1.Finding
	// Open tells whether a problem that it has found goes on.
	Open() bool
}

// FindingOf starts a finding that an event shows: run, attempt, rank, node and
// time are the event's.
func FindingOf(event *commonv1.Event, onsetStep, step int64) *controlv1.Finding {
	return &controlv1.Finding{
		RunId:     event.GetRunId(),
		Attempt:   event.GetAttempt(),
		Rank:      event.GetRank(),
		Node:      event.GetNode(),
		EventTime: event.GetTime(),
		OnsetStep: onsetStep,
		Step:      step,
	}
}
