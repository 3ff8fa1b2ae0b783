package collect

import (
	"context"
	"io"
	"time"

	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/metric"
)

// Result is how the calls of a collector went.
type Result struct {
	Name   string
	Status Status
	Err    error
	// Samples is what the last call gave, and of the calls before what it did
	// not give again.
	Samples []metric.Sample
}

// Once calls every collector twice, side by side, with a pause between the
// calls since some figures are differences, and closes it. A collector that
// does not return in its Timeout, or until ctx ends, is stuck and left behind.
// The results are in the order of the sources.
func Once(ctx context.Context, sources []Source, pause time.Duration) []Result {
	results := make([]Result, len(sources))
	tasks := make([]life.Task, len(sources))
	for i, s := range sources {
		tasks[i] = life.Task{Name: "collect " + s.Name, Run: func(ctx context.Context) error {
			results[i] = twice(ctx, &source{Source: s}, pause)
			return nil
		}}
	}
	group := life.NewGroup(ctx)
	for _, task := range tasks {
		group.Go(task.Name, task.Run)
	}
	_ = group.Wait() // the tasks give no errors, and a panic in a call is its result
	return results
}

func twice(ctx context.Context, s *source, pause time.Duration) Result {
	result := Result{Name: s.Name}
	for round := range 2 {
		c := begin(ctx, s, time.Now())
		c.wait()
		c.cancel()
		result.Status, result.Err = c.status, c.err
		result.Samples = merge(c.take(), result.Samples)
		if c.stuck {
			return result
		}
		if c.status != Ok || (round == 0 && !life.Sleep(ctx, pause)) {
			break
		}
	}
	if closer, ok := s.Collector.(io.Closer); ok {
		if err := closer.Close(); err != nil && result.Err == nil {
			result.Err = err
		}
	}
	return result
}

// merge adds to the later samples those of series that only the earlier have.
func merge(later, earlier []metric.Sample) []metric.Sample {
	seen := map[string]bool{}
	for _, s := range later {
		seen[seriesKey(s)] = true
	}
	for _, s := range earlier {
		if !seen[seriesKey(s)] {
			later = append(later, s)
		}
	}
	return later
}
