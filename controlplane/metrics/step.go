package metrics

import (
	"context"
	"slices"
	"strconv"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"

	"github.com/vigil-ml/vigil/internal/metric"
)

// AppendStep stores what a step report measured as the run's metrics, at the
// event's time; any other event stores nothing. What the report does not have
// is not stored. Of two steps in one millisecond, the second is refused unless
// it is the same.
func (db *DB) AppendStep(ctx context.Context, node string, event *commonv1.Event) (Counts, error) {
	samples := stepSamples(event)
	if len(samples) == 0 {
		return Counts{}, nil
	}
	if event.Time == nil {
		return Counts{Refused: len(samples)}, nil
	}
	return db.Append(ctx, node, samples)
}

func stepSamples(event *commonv1.Event) []metric.Sample {
	step := event.GetStep()
	if step == nil {
		return nil
	}
	labels := []string{event.RunId, strconv.FormatUint(uint64(event.Rank), 10)}
	var samples []metric.Sample
	add := func(def metric.Def, value *float64, more ...string) {
		if value != nil {
			samples = append(samples, metric.Sample{
				Def: def, Labels: slices.Concat(labels, more), Value: *value, Time: event.Time.AsTime(),
			})
		}
	}
	add(metric.RunStep, new(float64(step.Step)))
	add(metric.RunLoss, step.Loss)
	for task, loss := range step.TaskLosses {
		add(metric.RunTaskLoss, &loss, task)
	}
	for task, weight := range step.TaskWeights {
		add(metric.RunTaskWeight, &weight, task)
	}
	add(metric.RunCosine, step.GradientCosine)
	add(metric.RunGradientNorm, step.GradientNorm)
	add(metric.RunLearningRate, step.LearningRate)
	add(metric.RunStepTime, step.StepSeconds)
	add(metric.RunDataTime, step.DataSeconds)
	if step.ResidentBytes != nil {
		add(metric.RunResident, new(float64(*step.ResidentBytes)))
	}
	for name, value := range step.Metrics {
		add(metric.RunMetric, &value, name)
	}
	return samples
}
