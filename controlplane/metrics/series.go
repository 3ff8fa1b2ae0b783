package metrics

import (
	"context"
	"math"
	"sync"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/vigil-ml/vigil/internal/metric"
)

// maxCachedSeries bounds what is remembered of one node's series; beyond it
// all is forgotten and learned anew.
const maxCachedSeries = 1 << 16

// nodeSeries is the series of one node. Its mutex is held by the one Append of
// the node that is under way.
type nodeSeries struct {
	mu     sync.Mutex
	series map[string]*series
	key    []byte
}

// series is what is remembered of one series, so that a sample needs neither
// its labels made nor a look at what is stored.
type series struct {
	ref       storage.SeriesRef
	labels    labels.Labels
	matchers  []*labels.Matcher
	known     bool // lastMS and lastValue hold
	lastMS    int64
	lastValue float64
}

func (db *DB) node(name string) *nodeSeries {
	db.mu.Lock()
	defer db.mu.Unlock()
	n := db.nodes[name]
	if n == nil {
		n = &nodeSeries{series: map[string]*series{}, key: []byte(name)}
		db.nodes[name] = n
	}
	return n
}

// seriesOf gives a sample's series, or nil when the dictionary has none such.
func (db *DB) seriesOf(n *nodeSeries, app storage.Appender, sample metric.Sample) *series {
	name := len(n.key)
	key := append(append(n.key, 0xff), sample.Def.Name...)
	for _, text := range sample.Labels {
		key = append(append(key, 0xff), text...) // 0xff is in no UTF-8 text
	}
	n.key = key[:name]
	if s := n.series[string(key[name:])]; s != nil {
		return s
	}
	def, ok := db.dictionary[sample.Def.Name]
	if !ok || len(sample.Labels) != len(def.Labels) {
		return nil
	}
	if len(n.series) >= maxCachedSeries {
		clear(n.series)
	}
	s := newSeries(string(key[:name]), def, sample.Labels)
	if s.ref, _ = app.(storage.GetRef).GetRef(s.labels, s.labels.Hash()); s.ref == 0 {
		s.known, s.lastMS = true, math.MinInt64 // the TSDB's head has no such series
	}
	n.series[string(key[name:])] = s
	return s
}

func newSeries(node string, def metric.Def, values []string) *series {
	b := labels.NewScratchBuilder(len(values) + 2)
	s := &series{}
	add := func(name, text string) {
		if text != "" {
			b.Add(name, text)
		}
		s.matchers = append(s.matchers, labels.MustNewMatcher(labels.MatchEqual, name, text))
	}
	add(model.MetricNameLabel, def.Name)
	add("node", node)
	for i, name := range def.Labels {
		add(name, values[i])
	}
	b.Sort()
	s.labels = b.Labels()
	return s
}

// stored gives what the series has for the times of points, which are sorted,
// and learns the series' last sample.
func (s *series) stored(ctx context.Context, q storage.Querier, points []point) (map[int64]float64, error) {
	first := points[0].timeMS
	there := map[int64]float64{}
	lastMS, lastValue := first-1, 0.0
	set := q.Select(ctx, false, &storage.SelectHints{Start: first, End: math.MaxInt64}, s.matchers...)
	for set.Next() {
		it := set.At().Iterator(nil)
		for kind := it.Seek(first); kind == chunkenc.ValFloat; kind = it.Next() {
			t, v := it.At()
			for len(points) > 0 && points[0].timeMS < t {
				points = points[1:]
			}
			if len(points) > 0 && points[0].timeMS == t {
				there[t] = v
			}
			lastMS, lastValue = t, v
		}
		if err := it.Err(); err != nil {
			return nil, err
		}
	}
	if !s.known || lastMS > s.lastMS {
		s.known, s.lastMS, s.lastValue = true, lastMS, lastValue
	}
	return there, set.Err()
}
