package metrics

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/internal/metric"
)

// Of a run's loss around a time: how far back and on, and how many points at
// most.
const (
	lossBefore = 10 * time.Minute
	lossAfter  = 2 * time.Minute
	lossPoints = 2000
)

// Loss gives the loss of a run's first rank around a time, with the steps, in
// their order; of long stretches every n-th point.
func (db *DB) Loss(ctx context.Context, runID string, around time.Time) ([]notify.Point, error) {
	steps, err := db.firstOf(ctx, metric.RunStep.Name, runID, around)
	if err != nil {
		return nil, err
	}
	losses, err := db.firstOf(ctx, metric.RunLoss.Name, runID, around)
	if err != nil {
		return nil, err
	}
	at := make(map[int64]float64, len(steps))
	for _, s := range steps {
		at[s.time] = s.value
	}
	var points []notify.Point
	every := len(losses)/lossPoints + 1
	for i, l := range losses {
		if step, ok := at[l.time]; ok && i%every == 0 {
			points = append(points, notify.Point{Step: int64(step), Loss: l.value})
		}
	}
	return points, nil
}

// stamped is a value and its time in milliseconds since 1970.
type stamped struct {
	time  int64
	value float64
}

// firstOf gives the values of the first of a run's series of a metric.
func (db *DB) firstOf(ctx context.Context, name, runID string, around time.Time) ([]stamped, error) {
	querier, err := db.tsdb.Querier(around.Add(-lossBefore).UnixMilli(), around.Add(lossAfter).UnixMilli())
	if err != nil {
		return nil, fmt.Errorf("read %s of run %s: %w", name, runID, err)
	}
	defer func() { _ = querier.Close() }()
	set := querier.Select(ctx, true, nil,
		labels.MustNewMatcher(labels.MatchEqual, "__name__", name), labels.MustNewMatcher(labels.MatchEqual, "run", runID))
	var values []stamped
	if set.Next() {
		for it := set.At().Iterator(nil); it.Next() == chunkenc.ValFloat; {
			t, v := it.At()
			values = append(values, stamped{t, v})
		}
	}
	if err := set.Err(); err != nil {
		return nil, fmt.Errorf("read %s of run %s: %w", name, runID, err)
	}
	return values, nil
}
