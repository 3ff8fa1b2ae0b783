package main

import (
	"cmp"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/trainer/multitask"
)

// honour does what the run's settings ask of the reference trainer, where no
// flag says otherwise. A supervisor passes them in the environment. What is not
// here it cannot honour: it has no transformer, accumulates no gradients, saves
// its optimizer always, and hands checkpoints over without waiting.
func honour(cmd *cobra.Command, config *multitask.LoopConfig, name *string) error {
	var wrong error
	number := func(variable string, set func(float64)) {
		text := os.Getenv(variable)
		if text == "" {
			return
		}
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			wrong = cmp.Or(wrong, fault.New(fault.Invalid, "read environment: %s is %q; want a number", variable, text))
			return
		}
		set(value)
	}
	given := cmd.Flags().Changed
	number("VIGIL_TRAINING_EPOCHS", func(v float64) {
		if !given("steps") {
			config.Epochs = int64(v)
		}
	})
	number("VIGIL_TRAINING_BATCH_SIZE", func(v float64) {
		if !given("batch") {
			config.Training.Batch = int(v)
		}
	})
	number("VIGIL_TRAINING_LEARNING_RATE", func(v float64) {
		if !given("learning-rate") {
			config.Training.LearningRate = v
		}
	})
	number("VIGIL_CHECKPOINT_SAVE_EVERY_N_EPOCHS", func(v float64) {
		if !given("checkpoint-every") {
			config.SaveEveryEpochs = int64(v)
		}
	})
	number("VIGIL_TRAINING_LABEL_SMOOTHING", func(v float64) { config.Training.LabelSmoothing = v })
	config.IgnoreNonFinite = os.Getenv("VIGIL_MONITORING_DETECT_NAN_GRADIENTS") == "false"
	if text := os.Getenv("VIGIL_MODEL_NAME"); text != "" && !given("name") {
		*name = text
	}
	return wrong
}
