package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/google/uuid"

	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

const (
	// judgementsName is the directory of a run with what was judged of its
	// checkpoints: one file each, so that nodes that share it need no lock.
	judgementsName = ".judgements"
	maxJudgements  = 1000
)

// judgement makes checkpoints of a run suspect.
type judgement struct {
	ID           string    `json:"id"`
	CheckpointID string    `json:"checkpoint_id,omitempty"` // one; else those of a range
	FirstAttempt uint32    `json:"first_attempt,omitempty"` // the first one whose checkpoints are meant
	Attempt      uint32    `json:"attempt"`                 // the last one
	FromStep     int64     `json:"from_step"`
	ToStep       int64     `json:"to_step,omitempty"` // the first that is not meant; 0: none
	Reason       string    `json:"reason"`
	Judged       time.Time `json:"judged"`
}

// of tells whether a judgement speaks of a checkpoint.
func (j judgement) of(c *Checkpoint) bool {
	if j.CheckpointID != "" {
		return j.CheckpointID == c.ID
	}
	return c.Attempt >= j.FirstAttempt && c.Attempt <= j.Attempt && c.Step >= j.FromStep && (j.ToStep == 0 || c.Step < j.ToStep)
}

// judge takes in what was judged.
func (c *Checkpoint) judge(judged []judgement) {
	for _, j := range judged {
		if j.of(c) && c.Health != poisoned && c.Health != suspect {
			c.Health, c.HealthReason = suspect, j.Reason
		}
	}
}

// readJudgements gives what was judged of a run's checkpoints; a file that cannot
// be read says nothing.
func readJudgements(runDir string) []judgement {
	entries, err := os.ReadDir(filepath.Join(runDir, judgementsName))
	if err != nil {
		return nil
	}
	var judged []judgement
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".json") || len(judged) == maxJudgements {
			continue
		}
		data, err := readBounded(filepath.Join(runDir, judgementsName, entry.Name()), 1<<16)
		var j judgement
		if err == nil && json.Unmarshal(data, &j) == nil && j.ID+".json" == entry.Name() {
			judged = append(judged, j)
		}
	}
	return judged
}

// Judge makes checkpoints of a run suspect, those that are there and those that
// will be saved in the range, and says so of each. A judgement that is told
// again takes the place of the first. It fails with [fault.Invalid] for bad ids.
func (v *Vault) Judge(ctx context.Context, j *commonv1.CheckpointJudgement) error {
	if err := CheckRunID(j.GetRunId()); err != nil {
		return err
	}
	if err := CheckCheckpointID(j.GetJudgementId()); err != nil {
		return fault.New(fault.Invalid, "judge checkpoints: judgement id: %w", err)
	}
	runDir := v.runDir(j.GetRunId())
	if !exists(runDir) {
		return nil // nothing of the run was ever saved here
	}
	before := readJudgements(runDir)
	now := judgement{
		ID: j.GetJudgementId(), CheckpointID: j.GetCheckpointId(), FirstAttempt: j.GetFirstAttempt(), Attempt: j.GetAttempt(), FromStep: j.GetFromStep(),
		ToStep: j.GetToStep(), Reason: j.GetReason(), Judged: v.deps.Clock().UTC(),
	}
	data, err := json.Marshal(now)
	if err != nil {
		return fmt.Errorf("encode judgement: %w", err)
	}
	dir := filepath.Join(runDir, judgementsName)
	if err := v.deps.FS.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("judge checkpoints: %w", err)
	}
	if err := durable.WriteFile(v.deps.FS, filepath.Join(dir, now.ID+".json"), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("judge checkpoints: %w", err)
	}
	v.tellJudged(ctx, j.GetRunId(), before)
	return nil
}

// tellJudged says of each checkpoint whose health is another than it was.
func (v *Vault) tellJudged(ctx context.Context, runID string, before []judgement) {
	list, err := v.List(runID)
	if err != nil {
		v.deps.Log.Warn("list judged checkpoints", "run", runID, "error", err)
		return
	}
	for _, c := range list {
		was := survey(v.runDir(runID), c.ID)
		was.judge(before)
		if was.Health == c.Health && was.HealthReason == c.HealthReason {
			continue
		}
		v.deps.Log.Info("checkpoint is judged", "run", runID, "checkpoint", c.ID, "step", c.Step,
			"health", healthName(c.Health), "reason", c.HealthReason)
		v.announce(ctx, runID, &commonv1.CheckpointChanged{
			CheckpointId: c.ID, Change: commonv1.CheckpointChange_CHECKPOINT_CHANGE_JUDGED,
			Reasons: slices.DeleteFunc([]string{c.HealthReason}, func(s string) bool { return s == "" }),
			Health:  c.Health, Step: c.Step,
		})
	}
}

// announce emits what became of a checkpoint. An event that cannot be written does
// not undo it.
func (v *Vault) announce(ctx context.Context, runID string, what *commonv1.CheckpointChanged) {
	event := &commonv1.Event{
		EventId: uuid.Must(uuid.NewV7()).String(), Time: timestamppb.New(v.deps.Clock()), RunId: runID,
		Body: &commonv1.Event_CheckpointChanged{CheckpointChanged: what},
	}
	if err := v.deps.Events(ctx, runID, event); err != nil {
		v.deps.Log.Warn("write checkpoint event", "run", runID, "checkpoint", what.GetCheckpointId(), "error", err)
	}
}

// exists tells whether there is something at a path.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
