package metric

// Metrics of a run, from its step reports.
var (
	RunStep         = Def{"vigil_run_step", "1", Gauge, []string{"run", "rank"}, "Optimizer steps done."}
	RunLoss         = Def{"vigil_run_loss", "1", Gauge, []string{"run", "rank"}, "Total training loss of the last step."}
	RunTaskLoss     = Def{"vigil_run_task_loss", "1", Gauge, []string{"run", "rank", "task"}, "One task's training loss of the last step."}
	RunTaskWeight   = Def{"vigil_run_task_weight", "1", Gauge, []string{"run", "rank", "task"}, "Weight of one task's loss in the last step."}
	RunCosine       = Def{"vigil_run_gradient_cosine", "1", Gauge, []string{"run", "rank"}, "Least cosine between two tasks' gradients in the last step that measured it."}
	RunGradientNorm = Def{"vigil_run_gradient_norm", "1", Gauge, []string{"run", "rank"}, "L2 norm of the gradient of the last step."}
	RunLearningRate = Def{"vigil_run_learning_rate", "1", Gauge, []string{"run", "rank"}, "Learning rate of the last step."}
	RunStepTime     = Def{"vigil_run_step_seconds", "seconds", Gauge, []string{"run", "rank"}, "Wall-clock time of the last step."}
	RunDataTime     = Def{"vigil_run_data_seconds", "seconds", Gauge, []string{"run", "rank"}, "Time that the last step waited for data."}
	RunResident     = Def{"vigil_run_resident_bytes", "bytes", Gauge, []string{"run", "rank"}, "Resident memory of the training process."}
	RunMetric       = Def{"vigil_run_metric", "1", Gauge, []string{"run", "rank", "name"}, "What else the training script measured in the last step, by its own names."}
)

func runDefs() []Def {
	return []Def{
		RunStep, RunLoss, RunTaskLoss, RunTaskWeight, RunCosine, RunGradientNorm, RunLearningRate,
		RunStepTime, RunDataTime, RunResident, RunMetric,
	}
}
