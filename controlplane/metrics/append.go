package metrics

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"

	"github.com/vigil-ml/vigil/internal/metric"
)

// maxAhead is how far ahead of this machine's clock a sample may be. One from a
// node whose clock is wrong by years would make the samples of all others too
// old.
const maxAhead = 10 * time.Minute

// Counts is what became of samples.
type Counts struct {
	// Stored samples are new.
	Stored int
	// Repeated samples were there already, with the same value.
	Repeated int
	// Refused samples cannot be stored: their metric is not in the dictionary
	// or has other labels, another value is there for the same time, or their
	// time is older than Config.OutOfOrderWindow or in the future.
	Refused int
}

// Append stores samples of a node and says what became of each. Times count in
// milliseconds. On an error, which is one of the disk or of a closed database,
// any of the samples may be stored; append them again.
func (db *DB) Append(ctx context.Context, node string, samples []metric.Sample) (Counts, error) {
	n := db.node(node)
	n.mu.Lock()
	defer n.mu.Unlock()
	a := appending{db: db, node: n, latest: db.clock().Add(maxAhead).UnixMilli()}
	err := a.appendNew(ctx, samples)
	if err == nil && len(a.late) > 0 {
		err = a.appendLate(ctx)
	}
	if err != nil {
		clear(n.series) // what it says may not be stored
		return Counts{}, fmt.Errorf("append samples of node %s: %w", node, err)
	}
	return a.counts, nil
}

// appending is one call of Append.
type appending struct {
	db     *DB
	node   *nodeSeries
	latest int64
	counts Counts
	late   []point
}

// point is one sample of a known series.
type point struct {
	series *series
	timeMS int64
	value  float64
}

// appendNew stores what is newer than all that its series has, which is nearly
// everything, and puts the rest aside.
func (a *appending) appendNew(ctx context.Context, samples []metric.Sample) error {
	app := a.db.tsdb.Appender(ctx)
	for _, sample := range samples {
		s := a.db.seriesOf(a.node, app, sample)
		p := point{series: s, timeMS: sample.Time.UnixMilli(), value: sample.Value}
		if math.IsNaN(p.value) {
			p.value = math.Float64frombits(value.NormalNaN) // other NaNs mean things to PromQL
		}
		switch {
		case s == nil || p.timeMS > a.latest:
			a.counts.Refused++
		case !s.known || p.timeMS < s.lastMS:
			a.late = append(a.late, p)
		case p.timeMS == s.lastMS:
			a.countSame(s.lastValue, p.value)
		default:
			if err := a.append(app, p); err != nil {
				return errors.Join(err, app.Rollback())
			}
		}
	}
	return app.Commit()
}

// appendLate stores samples that are older than what their series has, unless
// they are there already.
func (a *appending) appendLate(ctx context.Context) error {
	groups := map[*series][]point{}
	oldest := int64(math.MaxInt64)
	for _, p := range a.late {
		groups[p.series] = append(groups[p.series], p)
		oldest = min(oldest, p.timeMS)
	}
	q, err := a.db.tsdb.Querier(oldest, math.MaxInt64)
	if err != nil {
		return err
	}
	defer func() { _ = q.Close() }()
	app := a.db.tsdb.Appender(ctx)
	for s, points := range groups {
		slices.SortStableFunc(points, func(a, b point) int { return int(min(max(a.timeMS-b.timeMS, -1), 1)) })
		there, err := s.stored(ctx, q, points)
		if err != nil {
			return errors.Join(err, app.Rollback())
		}
		for _, p := range points {
			if v, ok := there[p.timeMS]; ok {
				a.countSame(v, p.value)
				continue
			}
			if err := a.append(app, p); err != nil {
				return errors.Join(err, app.Rollback())
			}
			there[p.timeMS] = p.value
		}
	}
	return app.Commit()
}

// append hands one point to the TSDB. Its error is that of the TSDB itself,
// not of the point.
func (a *appending) append(app storage.Appender, p point) error {
	ref, err := app.Append(p.series.ref, p.series.labels, p.timeMS, p.value)
	switch {
	case err == nil:
		a.counts.Stored++
		p.series.ref = ref
		if p.timeMS > p.series.lastMS {
			p.series.lastMS, p.series.lastValue = p.timeMS, p.value
		}
		return nil
	case errors.Is(err, storage.ErrTooOldSample), errors.Is(err, storage.ErrOutOfBounds),
		errors.Is(err, storage.ErrOutOfOrderSample), errors.Is(err, storage.ErrDuplicateSampleForTimestamp):
		a.counts.Refused++
		return nil
	default:
		return err
	}
}

func (a *appending) countSame(there, value float64) {
	if math.Float64bits(there) == math.Float64bits(value) {
		a.counts.Repeated++
	} else {
		a.counts.Refused++
	}
}
