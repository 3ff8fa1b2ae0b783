package reflex

import (
	"fmt"
	"time"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// Kinds of causes, as the metric names them.
const (
	kindNonFinite  = "non_finite"
	kindPreemption = "preemption"
	kindFault      = "gpu_fault"
	kindMemory     = "memory"
)

// cause is why a run should be saved.
type cause struct {
	kind    string
	key     string // the same for what is one cause
	once    bool   // never again, also not after Quiet
	run     string
	since   time.Time // an order given after it is its answer
	ends    bool      // the attempt, with a restart
	failure commonv1.FailureKind

	deadline    time.Time // zero: the configured timeout
	traceparent string
	what        string // for the log
	details     []any  // for the log
}

func (c cause) after() commonv1.AfterCheckpoint {
	if c.ends {
		return commonv1.AfterCheckpoint_AFTER_CHECKPOINT_RESTART
	}
	return commonv1.AfterCheckpoint_AFTER_CHECKPOINT_CONTINUE
}

// Observe takes an event of a trainer or of the node that is on stable storage.
// It does not block.
func (r *Reflex) Observe(event *commonv1.Event) {
	since := r.deps.Clock()
	if event.GetTime() != nil {
		since = event.Time.AsTime()
	}
	switch body := event.GetBody().(type) {
	case *commonv1.Event_NonFinite:
		r.offer(cause{
			kind: kindNonFinite, key: event.EventId, once: true, run: event.RunId, since: since, ends: true,
			failure: commonv1.FailureKind_FAILURE_KIND_NONFINITE, traceparent: event.Traceparent,
			what: "a trainer met a non-finite value", details: []any{"step", body.NonFinite.GetStep(), "rank", event.Rank},
		})
	case *commonv1.Event_Preemption:
		notice := cause{
			kind: kindPreemption, since: since, failure: commonv1.FailureKind_FAILURE_KIND_PREEMPTED,
			traceparent: event.Traceparent, what: "the run is about to lose its place",
			details: []any{"source", body.Preemption.GetSource()},
		}
		if body.Preemption.GetDeadline() != nil {
			notice.deadline = body.Preemption.Deadline.AsTime()
		}
		r.offerTo(r.runsOf(event.RunId), notice)
	case *commonv1.Event_NodeFault:
		r.fault(body.NodeFault, since, event.Traceparent)
	}
}

// fault takes a fault after which work on a GPU cannot go on. When it does not
// say whose GPU it is, every run here is saved: that costs little.
func (r *Reflex) fault(fault *commonv1.NodeFault, since time.Time, traceparent string) {
	gpu := fault.GetKind() == commonv1.FaultKind_FAULT_KIND_XID || fault.GetKind() == commonv1.FaultKind_FAULT_KIND_SXID
	if !gpu || fault.GetSeverity() != commonv1.FaultSeverity_FAULT_SEVERITY_CRITICAL {
		return
	}
	r.offerTo(r.runsOf(fault.RunId), cause{
		kind: kindFault, key: fmt.Sprintf("/%d/%s", fault.Code, fault.Device), since: since,
		failure: commonv1.FailureKind_FAILURE_KIND_GPU_FAULT, traceparent: traceparent,
		what: "a GPU has failed", details: []any{"fault", fault.Title, "code", fault.Code, "device", fault.Device},
	})
}

// runsOf gives the one run that is named, or every run here.
func (r *Reflex) runsOf(runID string) []string {
	if runID != "" {
		return []string{runID}
	}
	return r.deps.Runs()
}

func (r *Reflex) offerTo(runs []string, c cause) {
	key := c.key
	for _, run := range runs {
		c.run, c.key = run, c.kind+"/"+run+key
		r.offer(c)
	}
}
