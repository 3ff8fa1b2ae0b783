package metrics

import (
	"cmp"
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

// Point is one sample of a series that [DB.Series] gave.
type Point struct {
	Series *Series
	TimeMS int64 // milliseconds since 1970
	Value  float64
}

// Append stores samples of a node and says what became of each. Times count in
// milliseconds. On an error, which is one of the disk or of a closed database,
// any of the samples may be stored; append them again.
func (db *DB) Append(ctx context.Context, node string, samples []metric.Sample) (Counts, error) {
	points := make([]Point, 0, len(samples))
	refused := 0
	for _, sample := range samples {
		s := db.seriesOf(node, sample.Def, sample.Labels)
		if s == nil {
			refused++
			continue
		}
		points = append(points, Point{s, sample.Time.UnixMilli(), sample.Value})
	}
	counts, err := db.AppendPoints(ctx, node, points)
	if err == nil {
		counts.Refused += refused
	}
	return counts, err
}

// AppendPoints is Append for series of the node that are known. It may change
// the points.
func (db *DB) AppendPoints(ctx context.Context, node string, points []Point) (Counts, error) {
	n := db.node(node)
	n.mu.Lock()
	defer n.mu.Unlock()
	a := appending{db: db, node: n, latest: db.clock().Add(maxAhead).UnixMilli()}
	err := a.appendNew(ctx, points)
	if err == nil && len(a.late) > 0 {
		err = a.appendLate(ctx)
	}
	if err == nil && db.failing.Load() != nil {
		db.failing.Store(nil)
	}
	if err != nil {
		n.forget() // what it says may not be stored
		if failed := err; ctx.Err() == nil {
			db.failing.Store(&failed)
		}
		return Counts{}, fmt.Errorf("append samples of node %s: %w", node, err)
	}
	return a.counts, nil
}

// Err says why the last samples could not be stored; nil when they were.
func (db *DB) Err() error {
	if last := db.failing.Load(); last != nil {
		return *last
	}
	return nil
}

// appending is one call of AppendPoints.
type appending struct {
	db     *DB
	node   *nodeSeries
	latest int64
	counts Counts
	late   []Point
}

// appendNew stores what is newer than all that its series has, which is nearly
// everything, and puts the rest aside.
func (a *appending) appendNew(ctx context.Context, points []Point) error {
	app := a.db.tsdb.Appender(ctx)
	for _, p := range points {
		if p.Series.forgotten {
			p.Series = a.db.known(a.node, p.Series.labels)
		}
		s := p.Series
		if math.IsNaN(p.Value) {
			p.Value = math.Float64frombits(value.NormalNaN) // other NaNs mean things to PromQL
		}
		switch {
		case p.TimeMS > a.latest:
			a.counts.Refused++
		case !s.known || p.TimeMS < s.lastMS:
			a.late = append(a.late, p)
		case p.TimeMS == s.lastMS:
			a.countSame(s.lastValue, p.Value)
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
	groups := map[*Series][]Point{}
	oldest := int64(math.MaxInt64)
	for _, p := range a.late {
		groups[p.Series] = append(groups[p.Series], p)
		oldest = min(oldest, p.TimeMS)
	}
	q, err := a.db.tsdb.Querier(oldest, math.MaxInt64)
	if err != nil {
		return err
	}
	defer func() { _ = q.Close() }()
	app := a.db.tsdb.Appender(ctx)
	for s, points := range groups {
		slices.SortStableFunc(points, func(a, b Point) int { return cmp.Compare(a.TimeMS, b.TimeMS) })
		there, err := a.db.stored(ctx, q, s, points)
		if err != nil {
			return errors.Join(err, app.Rollback())
		}
		for _, p := range points {
			if v, ok := there[p.TimeMS]; ok {
				a.countSame(v, p.Value)
				continue
			}
			if err := a.append(app, p); err != nil {
				return errors.Join(err, app.Rollback())
			}
			there[p.TimeMS] = p.Value
		}
	}
	return app.Commit()
}

// append hands one point to the TSDB. Its error is that of the TSDB itself,
// not of the point.
func (a *appending) append(app storage.Appender, p Point) error {
	s := p.Series
	ref, err := app.Append(s.ref, s.labels, p.TimeMS, p.Value)
	switch {
	case err == nil:
		a.counts.Stored++
		s.ref = ref
		if p.TimeMS > s.lastMS {
			s.lastMS, s.lastValue = p.TimeMS, p.Value
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
