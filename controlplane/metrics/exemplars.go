package metrics

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"time"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// apiExemplar is an exemplar as Prometheus' API has it.
type apiExemplar struct {
	Labels    labels.Labels   `json:"labels"`
	Value     json.RawMessage `json:"value"`
	Timestamp json.RawMessage `json:"timestamp"`
}

// apiExemplars are those of one series.
type apiExemplars struct {
	SeriesLabels labels.Labels `json:"seriesLabels"`
	Exemplars    []apiExemplar `json:"exemplars"`
}

// exemplars answers /api/v1/query_exemplars: those of the series that an
// expression is about, which remote write brought.
func (db *DB) exemplars(r *http.Request) (answer, error) {
	start, err := timeParameter(r, "start", time.UnixMilli(math.MinInt64))
	if err != nil {
		return answer{}, err
	}
	end, err := timeParameter(r, "end", time.UnixMilli(math.MaxInt64))
	if err != nil {
		return answer{}, err
	}
	if end.Before(start) {
		return answer{}, &apiError{errorBadData, errors.New("end timestamp must not be before start timestamp")}
	}
	expression, err := db.parser.ParseExpr(r.Form.Get("query"))
	if err != nil {
		return answer{}, &apiError{errorBadData, err}
	}
	all := []apiExemplars{}
	selectors := parser.ExtractSelectors(expression)
	if len(selectors) == 0 {
		return answer{data: all}, nil
	}
	q, err := db.tsdb.ExemplarQuerier(r.Context())
	if err != nil {
		return answer{}, err
	}
	found, err := q.Select(start.UnixMilli(), end.UnixMilli(), selectors...)
	if err != nil {
		return answer{}, err
	}
	for _, of := range found {
		all = append(all, apiExemplars{of.SeriesLabels, encodeExemplars(of.Exemplars)})
	}
	return answer{data: all}, nil
}

func encodeExemplars(all []exemplar.Exemplar) []apiExemplar {
	list := make([]apiExemplar, len(all))
	for i, e := range all {
		list[i] = apiExemplar{e.Labels, appendValue(nil, e.Value), appendTime(nil, e.Ts)}
	}
	return list
}
