package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/vigil-ml/vigil/internal/durable"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

const (
	// resumedName is the mark beside a checkpoint's ranks that says that training
	// went on from it.
	resumedName = "resumed.json"
	// provedName is the mark beside it that says that it has proved good.
	provedName = "proved.json"
)

// attemptMark is what both of them hold.
type attemptMark struct {
	Attempt uint32 `json:"attempt"`
	Time    string `json:"time"`
}

func readMark(path string) (m attemptMark, ok bool) {
	data, err := readBounded(path, 4096)
	return m, err == nil && json.Unmarshal(data, &m) == nil
}

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

// resumeProbations takes up what an earlier agent's runs went on from and had not
// proved good when it ended: of each run what it went on from last.
func (v *Vault) resumeProbations() {
	paths, _ := filepath.Glob(filepath.Join(v.config.Dir, "*", "*", resumedName))
	newest := map[string]attemptMark{}
	for _, path := range paths {
		dir := filepath.Dir(path)
		runID, id := filepath.Base(filepath.Dir(dir)), filepath.Base(dir)
		resumed, ok := readMark(path)
		if !ok || CheckRunID(runID) != nil || CheckCheckpointID(id) != nil || resumed.Time < newest[runID].Time {
			continue
		}
		newest[runID] = resumed
		delete(v.onProbation, runID)
		proved, known := readMark(filepath.Join(dir, provedName))
		judged := exists(filepath.Join(v.runDir(runID), judgementsName, "probation-"+id+".json"))
		if c := survey(v.runDir(runID), id); len(c.Ranks) > 0 && !judged && (!known || proved.Attempt < resumed.Attempt) {
			v.onProbation[runID] = &probation{checkpointID: id, step: c.Step, attempt: resumed.Attempt, last: c.Step}
		}
	}
}

// proves has it written down that a checkpoint proved good. The vault's lock is
// held.
func (v *Vault) proves(runID string, p *probation) {
	delete(v.onProbation, runID)
	v.proved = append(v.proved, provedGood{runID, p.checkpointID, p.attempt})
	v.tellVerdict()
}

// provedGood is a checkpoint that did.
type provedGood struct {
	runID, checkpointID string
	attempt             uint32
}

func (v *Vault) tellVerdict() {
	select {
	case v.judged <- struct{}{}:
	default:
	}
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
			v.proves(event.GetRunId(), p)
		}
	case *commonv1.Event_NonFinite:
		p.last = max(p.last, body.NonFinite.GetStep()-1)
		what = fmt.Sprintf("met a non-finite value in step %d", body.NonFinite.GetStep())
	case *commonv1.Event_AttemptEnded:
		p.last = max(p.last, body.AttemptEnded.GetStep())
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
	v.tellVerdict()
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
	verdicts, proved := v.verdicts, v.proved
	v.verdicts, v.proved = nil, nil
	v.mu.Unlock()
	for _, p := range proved {
		mark := fmt.Sprintf("{\"attempt\":%d,\"time\":%q}\n", p.attempt, v.deps.Clock().UTC().Format(time.RFC3339Nano))
		dir := filepath.Join(v.runDir(p.runID), p.checkpointID)
		if err := durable.WriteFile(v.deps.FS, filepath.Join(dir, provedName), []byte(mark), 0o600); err != nil && exists(dir) {
			v.deps.Log.Warn("mark checkpoint as proved good", "run", p.runID, "checkpoint", p.checkpointID, "error", err)
		}
	}
	for _, verdict := range verdicts {
		if err := v.Judge(ctx, verdict); err != nil {
			v.deps.Log.Error("judge checkpoint", "run", verdict.RunId, "step", verdict.FromStep, "error", err)
		}
	}
}
