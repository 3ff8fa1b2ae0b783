package metrics

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
)

// labelNames answers /api/v1/labels.
func (db *DB) labelNames(r *http.Request) (answer, error) {
	return db.list(r, func(q storage.Querier, set []*labels.Matcher) ([]string, annotations.Annotations, error) {
		return q.LabelNames(r.Context(), nil, set...)
	})
}

// labelValues answers /api/v1/label/{name}/values.
func (db *DB) labelValues(r *http.Request) (answer, error) {
	name := r.PathValue("name")
	if !model.UTF8Validation.IsValidLabelName(name) {
		return answer{}, &apiError{errorBadData, fmt.Errorf("invalid label name: %q", name)}
	}
	return db.list(r, func(q storage.Querier, set []*labels.Matcher) ([]string, annotations.Annotations, error) {
		return q.LabelValues(r.Context(), name, nil, set...)
	})
}

// list gathers words over all sets of matchers, sorted and each once.
func (db *DB) list(r *http.Request, ask func(storage.Querier, []*labels.Matcher) ([]string, annotations.Annotations, error)) (answer, error) {
	w, err := db.window(r)
	if err != nil {
		return answer{}, err
	}
	q, err := db.tsdb.Querier(w.start, w.end)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = q.Close() }()
	if len(w.matchers) == 0 {
		w.matchers = [][]*labels.Matcher{nil}
	}
	var odd annotations.Annotations
	words := []string{}
	for _, set := range w.matchers {
		got, warnings, err := ask(q, set)
		if err != nil {
			return answer{}, err
		}
		odd.Merge(warnings)
		words = append(words, got...)
	}
	slices.Sort(words)
	words = slices.Compact(words)
	if w.limit > 0 && len(words) > w.limit {
		words = words[:w.limit]
		odd = odd.Add(errTruncated())
	}
	return encoded(words, odd)
}

// series answers /api/v1/series.
func (db *DB) series(r *http.Request) (answer, error) {
	w, err := db.window(r)
	if err != nil {
		return answer{}, err
	}
	if len(w.matchers) == 0 {
		return answer{}, &apiError{errorBadData, errors.New("no match[] parameter provided")}
	}
	q, err := db.tsdb.Querier(w.start, w.end)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = q.Close() }()
	hints := &storage.SelectHints{Start: w.start, End: w.end, Func: "series"} // no samples are wanted
	sets := make([]storage.SeriesSet, len(w.matchers))
	for i, matchers := range w.matchers {
		sets[i] = q.Select(r.Context(), true, hints, matchers...)
	}
	merged := storage.NewMergeSeriesSet(sets, 0, storage.ChainedSeriesMerge)
	odd := merged.Warnings()
	found := []labels.Labels{}
	for merged.Next() {
		if w.limit > 0 && len(found) == w.limit {
			odd = odd.Add(errTruncated())
			break
		}
		found = append(found, merged.At().Labels())
	}
	if err := merged.Err(); err != nil {
		return answer{}, err
	}
	return encoded(found, odd)
}

// encoded writes the data while the querier is open: its texts live in memory
// that closing it may unmap.
func encoded(data any, odd annotations.Annotations) (answer, error) {
	body, err := json.Marshal(data)
	return answer{data: json.RawMessage(body), odd: odd}, err
}
