package metrics

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
)

// maxPoints bounds the points of each series of a range query, as Prometheus
// does: enough for a week at a minute's resolution.
const maxPoints = 11000

// queryData is the data of a query's answer.
type queryData struct {
	ResultType parser.ValueType `json:"resultType"`
	Result     result           `json:"result"`
}

// query answers /api/v1/query: one expression at one time.
func (db *DB) query(r *http.Request) (answer, error) {
	at, err := timeParameter(r, "time", db.clock())
	if err != nil {
		return answer{}, err
	}
	return db.run(r, func(ctx context.Context, text string) (promql.Query, error) {
		return db.engine.NewInstantQuery(ctx, db.tsdb, nil, text, at)
	})
}

// queryRange answers /api/v1/query_range: one expression at many times.
func (db *DB) queryRange(r *http.Request) (answer, error) {
	start, err := timeParameter(r, "start", time.Time{})
	if err != nil {
		return answer{}, err
	}
	end, err := timeParameter(r, "end", time.Time{})
	if err != nil {
		return answer{}, err
	}
	step, err := durationParameter(r, "step")
	switch {
	case err != nil:
		return answer{}, err
	case end.Before(start):
		return answer{}, badParameter("end", errors.New("end timestamp must not be before start time"))
	case step <= 0:
		return answer{}, badParameter("step", errors.New("zero or negative query resolution step widths are not accepted. Try a positive integer"))
	case end.Sub(start)/step > maxPoints:
		return answer{}, &apiError{errorBadData, errors.New("exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)")}
	}
	return db.run(r, func(ctx context.Context, text string) (promql.Query, error) {
		return db.engine.NewRangeQuery(ctx, db.tsdb, nil, text, start, end, step)
	})
}

// run makes and runs a query within the caller's timeout, where one is named.
func (db *DB) run(r *http.Request, prepare func(context.Context, string) (promql.Query, error)) (answer, error) {
	limit, err := limitParameter(r)
	if err != nil {
		return answer{}, err
	}
	ctx := r.Context()
	if r.Form.Get("timeout") != "" {
		timeout, err := durationParameter(r, "timeout")
		if err != nil {
			return answer{}, err
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	q, err := prepare(ctx, r.Form.Get("query"))
	if err != nil {
		return answer{}, cmp.Or(cutShort(ctx), badParameter("query", err))
	}
	defer q.Close()
	got := q.Exec(ctx)
	if got.Err != nil {
		return answer{odd: got.Warnings}, cmp.Or(cutShort(ctx), got.Err)
	}
	odd := got.Warnings
	value, cut := truncate(got.Value, limit)
	if cut {
		odd = odd.Add(errTruncated())
	}
	// The result lives in memory that q.Close takes back: encode it now.
	encoded, err := encode(value)
	return answer{data: queryData{ResultType: value.Type(), Result: encoded}, odd: odd}, err
}

// cutShort tells that a query had no time left, whichever part noticed it; nil
// when it had.
func cutShort(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return fmt.Errorf("query timed out or was canceled: %w", ctx.Err())
}

func errTruncated() error { return errors.New("results truncated due to limit") }

func truncate(v parser.Value, limit int) (parser.Value, bool) {
	if limit <= 0 {
		return v, false
	}
	switch v := v.(type) {
	case promql.Vector:
		return v[:min(limit, len(v))], len(v) > limit
	case promql.Matrix:
		return v[:min(limit, len(v))], len(v) > limit
	default:
		return v, false
	}
}
