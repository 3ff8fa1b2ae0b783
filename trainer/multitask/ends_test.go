package multitask

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	"github.com/vigil-ml/vigil/trainer/trainertest"
)

// TestEarlyStoppingGoesOnFromACheckpointOfAnEvaluatedStep: a process that is
// killed right behind its checkpoint stops where it would have stopped.
func TestEarlyStoppingGoesOnFromACheckpointOfAnEvaluatedStep(t *testing.T) {
	agent := trainertest.New(t)
	agent.Start(t)
	stopping := StopConfig{Patience: 2, MinImprovement: 0.99}
	whole := launch{socket: agent.Socket, steps: 100, every: 10, change: func(c *LoopConfig, _ *LoopDeps) {
		c.EvaluateEvery, c.Training.Stop = 10, stopping
	}}
	out, err := whole.run(t, t.Context())
	if err != nil {
		t.Fatal(err)
	}
	evaluations := map[int64]int{}
	var ended *commonv1.RunEnded
	for _, event := range agent.Events() {
		if e := event.GetEvaluation(); e != nil {
			evaluations[e.GetStep()]++
		}
		if e := event.GetRunEnded(); e != nil {
			ended = e
		}
	}
	// The first evaluation is the best, the two after it are no better.
	if want := "30 of 100 steps made, then 2 evaluations were no better"; !strings.HasPrefix(ended.GetExplanation(), want) {
		t.Errorf("the run ended with %q, want %q", ended.GetExplanation(), want)
	}
	if len(evaluations) != 3 || evaluations[30] != 1 {
		t.Errorf("evaluations by step are %v, want one at 10, 20 and 30", evaluations)
	}
	commits := agent.Commits()
	if len(commits) != 3 || commits[1].GetMetadata().GetStep() != 20 {
		t.Fatalf("commits are %v", commits)
	}
	state, err := os.ReadFile(filepath.Join(agent.Directory(commits[1].GetCheckpointId()), StateFile))
	if err != nil {
		t.Fatal(err)
	}
	rest := launch{steps: 100, change: func(c *LoopConfig, d *LoopDeps) {
		c.EvaluateEvery = 10
		d.Training = begin(t, func(c *Config) { c.Stop = stopping })
		if err := d.Training.Restore(state); err != nil {
			t.Fatal(err)
		}
	}}
	again, err := rest.run(t, t.Context())
	if err != nil {
		t.Fatal(err)
	}
	digest := func(text string) string { return text[strings.Index(text, "parameters sha256"):] }
	if digest(again) != digest(out) {
		t.Errorf("the resumed run ends with %q, the whole one with %q", again, out)
	}
}

func TestARunWhoseModelCannotBeKeptDidNotSucceed(t *testing.T) {
	for name, exitFile := range map[string]string{"alone": "", "supervised": filepath.Join(t.TempDir(), "exit.json")} {
		t.Run(name, func(t *testing.T) {
			agent := trainertest.New(t)
			agent.Start(t)
			run := launch{socket: agent.Socket, steps: 2, exitFile: exitFile, change: func(c *LoopConfig, _ *LoopDeps) {
				c.SaveTo = filepath.Join(t.TempDir(), "none", "model")
			}}
			if _, err := run.run(t, t.Context()); err == nil || !strings.Contains(err.Error(), "keep the model") {
				t.Errorf("Run = %v", err)
			}
			var ends []*commonv1.RunEnded
			for _, event := range agent.Events() {
				if e := event.GetRunEnded(); e != nil {
					ends = append(ends, e)
				}
			}
			switch {
			case exitFile != "" && len(ends) > 0:
				t.Errorf("a supervised process says that the run is over: %v", ends)
			case exitFile == "" && (len(ends) != 1 || ends[0].GetOutcome() != commonv1.Outcome_OUTCOME_FAILED):
				t.Errorf("the run ended as %v", ends)
			}
		})
	}
}
