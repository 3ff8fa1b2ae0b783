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

// maxKnownSeries bounds what is remembered of one node's series; beyond it all
// is forgotten and learned anew.
const maxKnownSeries = 1 << 16

// nodeSeries is the series of one node. Its mutex is held by the one Append of
// the node that is under way.
type nodeSeries struct {
	mu     sync.Mutex
	byHash map[uint64]*Series // the first of those with one hash
	count  int
}

// Series is what is remembered of one series, so that a sample needs neither its
// labels made nor a look at what is stored. [DB.Series] gives it.
type Series struct {
	ref       storage.SeriesRef
	labels    labels.Labels
	known     bool // lastMS and lastValue hold
	forgotten bool // another one stands for the series
	lastMS    int64
	lastValue float64
	next      *Series // of the same hash
}

// Name is that of the series' metric.
func (s *Series) Name() string { return s.labels.Get(model.MetricNameLabel) }

func (db *DB) node(name string) *nodeSeries {
	db.mu.Lock()
	defer db.mu.Unlock()
	n := db.nodes[name]
	if n == nil {
		n = &nodeSeries{byHash: map[uint64]*Series{}}
		db.nodes[name] = n
	}
	return n
}

// Series gives a series of a node by its metric and its labels, for
// [DB.AppendPoints]; nil when the dictionary has none such.
func (db *DB) Series(node, name string, labels map[string]string) *Series {
	def, ok := db.dictionary[name]
	if !ok || len(labels) != len(def.Labels) {
		return nil
	}
	values := make([]string, len(def.Labels))
	for i, label := range def.Labels {
		if values[i], ok = labels[label]; !ok {
			return nil
		}
	}
	return db.seriesOf(node, def, values)
}

// seriesOf is Series with the labels' values in the dictionary's order.
func (db *DB) seriesOf(node string, def metric.Def, values []string) *Series {
	l, ok := db.labelsOf(node, def, values)
	if !ok {
		return nil
	}
	n := db.node(node)
	n.mu.Lock()
	defer n.mu.Unlock()
	return db.known(n, l)
}

// known gives what is remembered of a series. The node's mutex is held.
func (db *DB) known(n *nodeSeries, l labels.Labels) *Series {
	hash := l.Hash()
	for s := n.byHash[hash]; s != nil; s = s.next {
		if labels.Equal(s.labels, l) {
			return s
		}
	}
	if n.count >= maxKnownSeries {
		n.forget()
	}
	s := &Series{labels: l, next: n.byHash[hash]}
	app := db.tsdb.Appender(context.Background())
	ref, there := app.(storage.GetRef).GetRef(l, hash)
	_ = app.Rollback() // nothing was appended
	if ref != 0 {
		s.ref, s.labels = ref, there // the same labels, that are in memory already
	} else {
		s.known, s.lastMS = true, math.MinInt64 // the TSDB's head has no such series
	}
	n.byHash[hash] = s
	n.count++
	return s
}

// forget has everything learned anew: what sessions hold is looked up again.
func (n *nodeSeries) forget() {
	for _, s := range n.byHash {
		for ; s != nil; s = s.next {
			s.forgotten = true
		}
	}
	clear(n.byHash)
	n.count = 0
}

// labelsOf makes a series' labels; false when the dictionary has none such.
func (db *DB) labelsOf(node string, def metric.Def, values []string) (labels.Labels, bool) {
	def, ok := db.dictionary[def.Name]
	if !ok || len(values) != len(def.Labels) {
		return labels.EmptyLabels(), false
	}
	b := labels.NewScratchBuilder(len(values) + 2)
	b.Add(model.MetricNameLabel, def.Name)
	b.Add("node", node)
	for i, name := range def.Labels {
		if values[i] != "" {
			b.Add(name, values[i])
		}
	}
	b.Sort()
	return b.Labels(), true
}

// matchers find the series alone among those of the dictionary: a label that it
// does not have is not there.
func (db *DB) matchers(s *Series) []*labels.Matcher {
	var all []*labels.Matcher
	s.labels.Range(func(l labels.Label) {
		all = append(all, labels.MustNewMatcher(labels.MatchEqual, l.Name, l.Value))
	})
	for _, name := range db.dictionary[s.labels.Get(model.MetricNameLabel)].Labels {
		if !s.labels.Has(name) {
			all = append(all, labels.MustNewMatcher(labels.MatchEqual, name, ""))
		}
	}
	return all
}

// stored gives what a series has for the times of points, which are sorted, and
// learns the series' last sample.
func (db *DB) stored(ctx context.Context, q storage.Querier, s *Series, points []Point) (map[int64]float64, error) {
	first := points[0].TimeMS
	there := map[int64]float64{}
	lastMS, lastValue := first-1, 0.0
	set := q.Select(ctx, false, &storage.SelectHints{Start: first, End: math.MaxInt64}, db.matchers(s)...)
	for set.Next() {
		it := set.At().Iterator(nil)
		for kind := it.Seek(first); kind == chunkenc.ValFloat; kind = it.Next() {
			t, v := it.At()
			for len(points) > 0 && points[0].TimeMS < t {
				points = points[1:]
			}
			if len(points) > 0 && points[0].TimeMS == t {
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
