package incident

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/vigil-ml/vigil/controlplane/fleet"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/telemetry"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// answer is what was done about a finding, and what is left for a person, in
// plain sentences.
type answer struct {
	times int64 // how often the problem has come

	done string // empty when nothing was
	todo string // with %s for the checkpoint to roll back to; empty when unknown
}

// answer does what can be done without a person: a non-finite value that was
// met before it did harm leads to an emergency checkpoint and a restart from
// it. All else is only told.
func (e *Engine) answer(ctx context.Context, tx *store.Tx, event *commonv1.Event, f *controlv1.Finding, record store.IncidentRecord) (answer, error) {
	a, met := answer{times: record.Occurrences}, event.GetNonFinite()
	switch {
	case f.GetKind() == nonFinite && met.GetParametersIntact():
		return e.save(ctx, tx, f, record)
	case f.GetKind() == nonFinite:
		a.todo = "A checkpoint of the present state would be poisoned: roll back to %s."
	case f.GetKind() == divergence:
		a.todo = "If the loss does not come back, roll back to %s and go on with a lower learning rate."
	}
	return a, nil
}

// The kinds of findings that are answered in a way of their own.
const (
	nonFinite  = "nonfinite"
	divergence = "divergence"
	// gaveUp is of a failure that the supervisor wants a person to look at.
	gaveUp = "failed"
)

// save has the run saved and restarted, once for each time that the problem
// comes, however many ranks meet it. That it cannot be is told and is no error;
// only the store's errors are.
func (e *Engine) save(ctx context.Context, tx *store.Tx, f *controlv1.Finding, record store.IncidentRecord) (answer, error) {
	id, times := record.Incident.GetIncidentId(), record.Occurrences
	checkpoint, err := e.deps.Save(tx, fleet.SaveRequest{
		RunID:          f.GetRunId(),
		Reason:         commonv1.CheckpointReason_CHECKPOINT_REASON_EMERGENCY,
		After:          commonv1.AfterCheckpoint_AFTER_CHECKPOINT_RESTART,
		Failure:        commonv1.FailureKind_FAILURE_KIND_NONFINITE,
		IdempotencyKey: "finding/" + record.Latest + "/checkpoint",
		Traceparent:    telemetry.Traceparent(ctx),
		Timeout:        e.config.CheckpointTimeout,
	})
	if failed := tx.Err(); failed != nil { // it may be of kind unavailable, too: another transaction got in the way
		return answer{}, cmp.Or(err, failed)
	}
	switch fault.KindOf(err) {
	case fault.NotFound, fault.Precondition, fault.Unavailable:
		return answer{
			times: times, done: fmt.Sprintf("Vigil could not have it saved: %v.", err),
			todo: "Roll back to %s, or save by hand: agentctl checkpoint --now --run " + f.GetRunId() + ".",
		}, nil
	}
	if err != nil {
		return answer{}, err
	}
	a := answer{
		times: times, done: fmt.Sprintf("Vigil asked for emergency checkpoint %s and a restart from it.", checkpoint.GetCheckpointId()),
		todo: "Nothing is to be done unless it comes again.",
	}
	if times > 1 {
		a.todo = fmt.Sprintf("Restarts do not get past it: look at the data of step %d and at the learning rate.", f.GetOnsetStep())
	}
	_, err = tx.Awaited(checkpoint.GetCheckpointId())
	if err == nil || !fault.Is(err, fault.NotFound) {
		return a, err
	}
	requested := uint64(1) << commonv1.CheckpointState_CHECKPOINT_STATE_REQUESTED
	err = tx.PutAwaited(store.Awaited{CheckpointID: checkpoint.GetCheckpointId(), IncidentID: id, Noted: requested})
	if err != nil {
		return answer{}, err
	}
	return a, e.happened(tx, id, e.deps.Clock(), "checkpoint",
		fmt.Sprintf("Asked for emergency checkpoint %s and a restart from it.", checkpoint.GetCheckpointId()), "")
}

// summary is what a person reads at three in the morning: what is wrong, since
// when, what it costs, what Vigil did, and what is left to do.
func summary(tx *store.Tx, f *controlv1.Finding, a answer) (string, error) {
	good, err := lastGood(tx, f.GetRunId(), f.GetOnsetStep())
	if err != nil {
		return "", err
	}
	var sentences []string
	if f.GetCause() != nil {
		sentences = append(sentences, f.GetCause().GetSummary())
	}
	sentences = append(sentences, f.GetSummary())
	if a.times > 1 {
		sentences = append(sentences, fmt.Sprintf("This is the %s time.", ordinal(a.times)))
	}
	if f.GetEventTime() != nil {
		sentences = append(sentences, "Seen at "+f.GetEventTime().AsTime().UTC().Format(time.TimeOnly+" MST")+".")
	}
	if good != nil {
		sentences = append(sentences, fmt.Sprintf("The last verified checkpoint is of step %d: %s would be lost.",
			good.GetStep(), steps(f.GetStep()-1-good.GetStep())))
	} else {
		sentences = append(sentences, "There is no verified checkpoint from before it.")
	}
	if a.done != "" {
		sentences = append(sentences, a.done)
	} else {
		sentences = append(sentences, "Vigil changed nothing.")
	}
	target := "an earlier checkpoint of your own"
	if good != nil {
		target = fmt.Sprintf("the checkpoint of step %d (%s)", good.GetStep(), good.GetCheckpointId())
	}
	if a.todo != "" {
		sentences = append(sentences, strings.Replace(a.todo, "%s", target, 1))
	}
	return strings.Join(sentences, " "), nil
}

func steps(n int64) string {
	if n == 1 {
		return "1 step"
	}
	return fmt.Sprintf("%d steps", max(n, 0))
}

// checkpointsLooked is among how many of a run's latest checkpoints a good one
// is looked for.
const checkpointsLooked = 64

// lastGood gives the run's latest verified checkpoint from before a step, or
// nil.
func lastGood(tx *store.Tx, runID string, onset int64) (*controlv1.Checkpoint, error) {
	checkpoints, err := tx.Checkpoints(runID, checkpointsLooked)
	if err != nil {
		return nil, err
	}
	var best *controlv1.Checkpoint
	for _, c := range checkpoints {
		good := c.GetState() >= commonv1.CheckpointState_CHECKPOINT_STATE_VERIFIED &&
			c.GetState() != commonv1.CheckpointState_CHECKPOINT_STATE_FAILED &&
			c.GetHealth() <= commonv1.CheckpointHealth_CHECKPOINT_HEALTH_HEALTHY
		if good && c.GetRemoved() == nil && c.GetStep() < onset && (best == nil || c.GetStep() > best.GetStep()) {
			best = c
		}
	}
	return best, nil
}
