package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/cobra"

	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/trainer/inject"
	"github.com/vigil-ml/vigil/trainer/multitask"
)

func TestTheReferenceTrainerHonoursSettings(t *testing.T) {
	for name, value := range map[string]string{
		"VIGIL_TRAINING_EPOCHS": "3", "VIGIL_TRAINING_BATCH_SIZE": "32", "VIGIL_TRAINING_LEARNING_RATE": "0.01",
		"VIGIL_CHECKPOINT_SAVE_EVERY_N_EPOCHS": "2", "VIGIL_TRAINING_LABEL_SMOOTHING": "0.1",
		"VIGIL_MONITORING_DETECT_NAN_GRADIENTS": "false", "VIGIL_MODEL_NAME": "digits of mine",
	} {
		t.Setenv(name, value)
	}
	given := func(args ...string) (multitask.LoopConfig, string, error) {
		config, name := multitask.LoopConfig{Training: multitask.Defaults()}, ""
		cmd := &cobra.Command{}
		cmd.Flags().Int64("steps", 1, "")
		cmd.Flags().Int("batch", 1, "")
		cmd.Flags().Float64("learning-rate", 1, "")
		cmd.Flags().Int64("checkpoint-every", 1, "")
		cmd.Flags().String("name", "", "")
		if err := cmd.ParseFlags(args); err != nil {
			t.Fatal(err)
		}
		err := honour(cmd, &config, &name)
		return config, name, err
	}
	got, name, err := given()
	training := multitask.Defaults()
	training.Batch, training.LearningRate, training.LabelSmoothing = 32, 0.01, 0.1
	want := multitask.LoopConfig{
		Training: training,
		Epochs:   3, SaveEveryEpochs: 2, IgnoreNonFinite: true,
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(inject.Plan{}, conf.Raw{})); diff != "" || err != nil || name != "digits of mine" {
		t.Errorf("name %q, %v, settings (-want +got):\n%s", name, err, diff)
	}
	// A flag wins.
	got, name, _ = given("--steps=5", "--batch=7", "--learning-rate=0.5", "--checkpoint-every=9", "--name=x")
	if got.Epochs != 0 || got.Training.Batch != 64 || got.Training.LearningRate != 1e-3 || got.SaveEveryEpochs != 0 || name != "" {
		t.Errorf("flags do not win: %+v, %q", got, name)
	}
	t.Setenv("VIGIL_TRAINING_EPOCHS", "three")
	if _, _, err := given(); !fault.Is(err, fault.Invalid) {
		t.Errorf("a number that is none: %v", err)
	}
}
