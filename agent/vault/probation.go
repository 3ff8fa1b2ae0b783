package vault

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/vigil-ml/vigil/internal/durable"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// resumedName is the mark beside a checkpoint's ranks that says that training
// went on from it.
const resumedName = "resumed.json"

// probation is a checkpoint that a run goes on from and has not proved good yet:
// a failure of the state soon after blames it, and not the machine.
type probation struct {
	checkpointID string
	step         int64
	attempt      uint32
	last         int64 // the last step that was reported since
}

// tookUp notes that a rank goes on from a checkpoint.
func (v *Vault) tookUp(req ResolveRequest, c *Checkpoint) {
	mark := fmt.Sprintf("{\"attempt\":%d,\"rank\":%d,\"time\":%q}\n", req.Attempt, req.Rank, v.deps.Clock().UTC().Format(time.RFC3339Nano))
	path := filepath.Join(v.runDir(req.RunID), c.ID, resumedName)
	if err := durable.WriteFile(v.deps.FS, path, []byte(mark), 0o600); err != nil {
		v.deps.Log.Warn("mark checkpoint as resumed from", "run", req.RunID, "checkpoint", c.ID, "error", err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.onProbation[req.RunID] = &probation{checkpointID: c.ID, step: c.Step, attempt: req.Attempt, last: c.Step}
}

// Observe learns from the events of a run's processes on this node whether the
// checkpoint that they went on from is good. It returns at once; Run does what
// is to be done.
func (v *Vault) Observe(event *commonv1.Event) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if event.GetAttemptEnded() != nil {
		v.dropSpares(func(k key, _ *spares) bool { return k.runID == event.GetRunId() })
	}
	p := v.onProbation[event.GetRunId()]
	if p == nil || event.GetAttempt() != p.attempt {
		return
	}
	what := ""
	switch body := event.GetBody().(type) {
	case *commonv1.Event_Step:
		p.last = max(p.last, body.Step.GetStep())
		if p.last-p.step > v.config.ProbationSteps {
			delete(v.onProbation, event.GetRunId()) // it has proved good
		}
	case *commonv1.Event_NonFinite:
		p.last = max(p.last, body.NonFinite.GetStep()-1)
		what = fmt.Sprintf("met a non-finite value in step %d", body.NonFinite.GetStep())
	case *commonv1.Event_AttemptEnded:
		if ofState(body.AttemptEnded.GetFailure()) {
			kind := strings.TrimPrefix(body.AttemptEnded.GetFailure().String(), "FAILURE_KIND_")
			what = fmt.Sprintf("failed behind step %d (%s)", p.last, strings.ToLower(strings.ReplaceAll(kind, "_", " ")))
		}
	}
	if what == "" || p.last-p.step > v.config.ProbationSteps {
		return
	}
	delete(v.onProbation, event.GetRunId())
	// What this attempt saved since is no better than what it went on from.
	v.verdicts = append(v.verdicts, &commonv1.CheckpointJudgement{
		RunId: event.GetRunId(), JudgementId: "probation-" + p.checkpointID, Attempt: p.attempt, FromStep: p.step,
		Reason: fmt.Sprintf("attempt %d went on from step %d and %s", p.attempt, p.step, what),
	})
	select {
	case v.judged <- struct{}{}:
	default:
	}
}

// ofState tells whether a failure may lie in the state that training went on
// from, rather than in the machine.
func ofState(kind commonv1.FailureKind) bool {
	switch kind {
	case commonv1.FailureKind_FAILURE_KIND_NONFINITE, commonv1.FailureKind_FAILURE_KIND_DIVERGENCE,
		commonv1.FailureKind_FAILURE_KIND_CHECKPOINT_CORRUPT:
		return true
	}
	return false
}

// pass has the verdicts of probations written down as they come.
func (v *Vault) pass(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-v.judged:
			v.passAll(ctx)
		}
	}
}

// passAll writes down every verdict that there is; on return none is under way.
func (v *Vault) passAll(ctx context.Context) {
	v.judging.Lock()
	defer v.judging.Unlock()
	v.mu.Lock()
	verdicts := v.verdicts
	v.verdicts = nil
	v.mu.Unlock()
	for _, verdict := range verdicts {
		if err := v.Judge(ctx, verdict); err != nil {
			v.deps.Log.Error("judge checkpoint", "run", verdict.RunId, "step", verdict.FromStep, "error", err)
		}
	}
}
