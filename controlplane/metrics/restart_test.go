package metrics

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/wlog"

	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/testkit"
)

// away is a store that can be gone.
type away struct {
	db      *DB
	url     string
	gone    atomic.Bool
	refused atomic.Int64
}

func newAway(t *testing.T) *away {
	a := &away{db: openLive(t, nil)}
	handler := a.db.Handler()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.gone.Load() {
			// What an operator can mend is no reason to give samples up.
			codes := []int{503, 401, 403, 404, 429, 500, 408}
			http.Error(w, "gone", codes[int(a.refused.Add(1))%len(codes)])
			return
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	a.url = server.URL + "/api/v1/write"
	return a
}

// behind gives for how long each store has lacked something, as the metrics say.
func behind(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	seconds := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == metric.ControlForwardBehind.Name {
				seconds[m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue()
			}
		}
	}
	return seconds
}

// openIn opens a database in a directory; what is returned closes it, once.
func openIn(t *testing.T, dir string, change func(*Config)) (db *DB, stop func()) {
	t.Helper()
	return openShown(t, dir, prometheus.NewRegistry(), change)
}

// openShown is openIn with a registry.
func openShown(t *testing.T, dir string, registry *prometheus.Registry, change func(*Config)) (db *DB, stop func()) {
	t.Helper()
	config := Defaults(dir)
	change(&config)
	db, err := Open(config, Deps{Log: testkit.Logger(t), Clock: time.Now, Metrics: registry})
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	stop = func() {
		if !closed {
			closed = true
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(stop)
	return db, stop
}

// TestRemoteWriteGoesOnAfterACrash holds that two stores, one of each version of
// the protocol, have everything in the end: what was there before they went away,
// what came while they were, what came late then, and late again after the control
// plane was killed and started, which is older than its start.
func TestRemoteWriteGoesOnAfterACrash(t *testing.T) {
	one, two := newAway(t), newAway(t)
	stores := func(c *Config) {
		c.ExternalLabels = map[string]string{"site": "here", "job": "another"}
		c.RemoteWrite = []RemoteWriteConfig{{Name: "one", URL: one.url, Version: 1}, {Name: "two", URL: two.url, Version: 2, MaxShards: 2}}
	}
	db, _ := openIn(t, t.TempDir(), stores)
	from := time.Now().Add(-3 * time.Hour).Truncate(time.Second)
	written := 0
	write := func(db *DB, first, n int) {
		t.Helper()
		for i := range n {
			foreign(t, db, "node_load1", from.Add(time.Duration(first+i)*time.Second), float64(first+i))
		}
		written += n
	}
	all := func(what string) {
		t.Helper()
		for _, store := range []*away{one, two} {
			testkit.Eventually(t, what, func() bool { return store.db.count(t, "node_load1") == written })
		}
	}
	write(db, 1000, 50)
	all("what came first")
	for _, store := range []*away{one, two} {
		store.gone.Store(true)
	}
	write(db, 1050, 50)
	write(db, 500, 50) // an agent had kept it
	testkit.Eventually(t, "tries", func() bool { return one.refused.Load() > 0 && two.refused.Load() > 0 })
	dir := filepath.Join(t.TempDir(), "metrics") // as it is when the process is killed
	if err := os.CopyFS(dir, os.DirFS(db.config.Dir)); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(filepath.Join(dir, "lock"))
	registry := prometheus.NewRegistry()
	again, stop := openShown(t, dir, registry, stores)
	testkit.Eventually(t, "both to be behind", func() bool { at := behind(t, registry); return at["one"] > 0 && at["two"] > 0 })
	write(again, 600, 50)
	write(again, 1100, 4000) // more than a request holds
	app := again.tsdb.Appender(t.Context())
	l := labels.FromStrings("__name__", "native_seconds", "site", "own")
	h := &histogram.Histogram{Count: 3, Sum: 4, Schema: 1, PositiveSpans: []histogram.Span{{Offset: 0, Length: 1}}, PositiveBuckets: []int64{3}}
	ref, err := app.AppendHistogram(0, l, from.UnixMilli(), h, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := app.AppendExemplar(ref, l, exemplar.Exemplar{Labels: labels.FromStrings("trace_id", "abc"), Value: 1, Ts: from.UnixMilli(), HasTs: true}); err != nil {
		t.Fatal(err)
	}
	if err := app.Commit(); err != nil {
		t.Fatal(err)
	}
	for _, store := range []*away{one, two} {
		store.gone.Store(false)
	}
	all("everything")
	for _, store := range []*away{one, two} {
		testkit.Eventually(t, "the histogram", func() bool { return store.db.count(t, "native_seconds") == 1 })
		series, _ := store.db.tsdb.Querier(0, time.Now().UnixMilli())
		set := series.Select(t.Context(), true, nil, labels.MustNewMatcher(labels.MatchRegexp, "__name__", "node_load1|native_seconds"))
		var names []string
		for set.Next() {
			names = append(names, set.At().Labels().String())
		}
		_ = series.Close()
		// What a series has itself, it keeps.
		if len(names) != 2 || names[0] != `{__name__="native_seconds", job="another", site="own"}` || names[1] != `{__name__="node_load1", job="node", site="here"}` {
			t.Errorf("series %v", names)
		}
		q, err := store.db.tsdb.ExemplarQuerier(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		testkit.Eventually(t, "the exemplar", func() bool {
			found, err := q.Select(0, time.Now().UnixMilli(), []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, "__name__", "native_seconds")})
			return err == nil && len(found) == 1 && found[0].Exemplars[0].Labels.Get("trace_id") == "abc"
		})
	}
	testkit.Eventually(t, "none to be behind", func() bool { at := behind(t, registry); return at["one"] == 0 && at["two"] == 0 })
	write(again, 6000, 30)
	stop() // gives it some time to be sent
	all("what was written at the end")
}

// TestRemoteWriteReadsBlocksOfALongOutage holds that a store has everything that
// was away for so long that the log had to go.
func TestRemoteWriteReadsBlocksOfALongOutage(t *testing.T) {
	store, dir := newAway(t), t.TempDir()
	from := time.Now().Add(-20 * time.Hour).Truncate(time.Second)
	stores := func(c *Config) { c.RemoteWrite = []RemoteWriteConfig{{Name: "one", URL: store.url}} }
	written := 0
	for hour := range 20 {
		configure := func(*Config) {} // nobody is sent anything
		if hour == 0 {
			configure = stores
		}
		db, stop := openIn(t, dir, configure)
		for minute := range 60 {
			foreign(t, db, "node_load1", from.Add(time.Duration(hour)*time.Hour+time.Duration(minute)*time.Minute), float64(minute))
			written++
		}
		if hour == 0 {
			testkit.Eventually(t, "the first hour", func() bool { return store.db.count(t, "node_load1") == written })
		}
		if err := db.tsdb.Compact(t.Context()); err != nil {
			t.Fatal(err)
		}
		stop()
	}
	if first, _, err := wlog.Segments(filepath.Join(dir, "wal")); err != nil || first == 0 {
		t.Fatalf("the log begins with segment %d, %v: it never had to go", first, err)
	}
	db, _ := openIn(t, dir, stores)
	foreign(t, db, "node_load1", time.Now(), 7)
	written++
	testkit.Eventually(t, "everything", func() bool { return store.db.count(t, "node_load1") == written })
}
