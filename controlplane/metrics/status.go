package metrics

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/tsdb/index"
)

// maxStatusLimit bounds the lists of status/tsdb, as Prometheus does.
const maxStatusLimit = 10_000

// apiCount is a name with how many there are.
type apiCount struct {
	Name  string `json:"name"`
	Value uint64 `json:"value"`
}

// tsdbStatus answers /api/v1/status/tsdb: which metrics and labels have the most
// series.
func (db *DB) tsdbStatus(r *http.Request) (answer, error) {
	limit := 10
	if text := r.Form.Get("limit"); text != "" {
		var err error
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 {
			return answer{}, &apiError{errorBadData, errors.New("limit must be a positive number")}
		}
		limit = min(limit, maxStatusLimit)
	}
	stats := db.tsdb.Head().Stats(model.MetricNameLabel, limit)
	counts := func(of []index.Stat) []apiCount {
		list := make([]apiCount, len(of))
		for i, one := range of {
			list[i] = apiCount{one.Name, one.Count}
		}
		return list
	}
	return answer{data: map[string]any{
		"headStats": map[string]any{
			"numSeries": stats.NumSeries, "numLabelPairs": stats.IndexPostingStats.NumLabelPairs, "chunkCount": db.headChunks(),
			"minTime": stats.MinTime, "maxTime": stats.MaxTime,
		},
		"seriesCountByMetricName":     counts(stats.IndexPostingStats.CardinalityMetricsStats),
		"labelValueCountByLabelName":  counts(stats.IndexPostingStats.CardinalityLabelStats),
		"memoryInBytesByLabelName":    counts(stats.IndexPostingStats.LabelValueStats),
		"seriesCountByLabelValuePair": counts(stats.IndexPostingStats.LabelValuePairsStats),
	}}, nil
}

// headChunks gives how many chunks are in memory or mapped into it.
func (db *DB) headChunks() int64 {
	families, err := db.counts.Gather()
	if err != nil {
		return 0
	}
	for _, family := range families {
		if family.GetName() == "prometheus_tsdb_head_chunks" {
			return int64(family.GetMetric()[0].GetGauge().GetValue())
		}
	}
	return 0
}
