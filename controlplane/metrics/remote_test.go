package metrics

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/testkit"
)

// openLive opens a database whose clock is the machine's.
func openLive(t *testing.T, change func(*Config)) *DB {
	t.Helper()
	config := Defaults(t.TempDir())
	if change != nil {
		change(&config)
	}
	db, err := Open(config, Deps{Log: testkit.Logger(t), Clock: time.Now, Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// foreign puts a sample of somebody else's series into a database.
func foreign(t *testing.T, db *DB, name string, at time.Time, v float64) {
	t.Helper()
	app := db.tsdb.Appender(t.Context())
	if _, err := app.Append(0, labels.FromStrings("__name__", name, "job", "node"), at.UnixMilli(), v); err != nil {
		t.Fatal(err)
	}
	if err := app.Commit(); err != nil {
		t.Fatal(err)
	}
}

// count gives how many samples there are of a metric.
func (db *DB) count(t *testing.T, name string) (n int) {
	t.Helper()
	q, err := db.tsdb.Querier(0, time.Now().Add(time.Hour).UnixMilli())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = q.Close() }()
	set := q.Select(t.Context(), false, nil, labels.MustNewMatcher(labels.MatchEqual, "__name__", name))
	for set.Next() {
		for it := set.At().Iterator(nil); it.Next() != 0; {
			n++
		}
	}
	return n
}

// TestRemoteWriteOutAndIn sends by both versions of the protocol to two stores,
// one of which is away at first. Vigil's own series are left out there: another
// Vigil's agents own them.
func TestRemoteWriteOutAndIn(t *testing.T) {
	first, second := openLive(t, nil), openLive(t, nil)
	var away atomic.Bool
	var refused atomic.Int64
	away.Store(true)
	handler := first.Handler()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if away.Load() {
			refused.Add(1)
			http.Error(w, "away", http.StatusServiceUnavailable)
			return
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	db := openLive(t, func(c *Config) {
		c.ExternalLabels = map[string]string{"site": "here"}
		c.RemoteWrite = []RemoteWriteConfig{
			{Name: "one", URL: server.URL + "/api/v1/write", Version: 1},
			{Name: "two", URL: serve(t, second) + "/api/v1/write", Version: 2},
		}
	})
	start := time.Now().Add(time.Second)
	for i := range 50 {
		foreign(t, db, "node_load1", start.Add(time.Duration(i)*time.Millisecond), float64(i))
	}
	mustAppend(t, db, "a", metric.Sample{Def: metric.HostLoad1, Value: 1, Time: start})
	testkit.Eventually(t, "tries at the store that is away", func() bool { return refused.Load() > 0 })
	away.Store(false)
	testkit.Eventually(t, "all samples at the first", func() bool { return first.count(t, "node_load1") == 50 })
	testkit.Eventually(t, "all samples at the second", func() bool { return second.count(t, "node_load1") == 50 })
	if n := first.count(t, metric.HostLoad1.Name) + second.count(t, metric.HostLoad1.Name); n != 0 {
		t.Errorf("%d samples of Vigil's own series were taken from outside", n)
	}
	if got := instant(t, first, `count(node_load1{site="here",job="node"} offset -1h) or vector(0)`); len(got) == 0 {
		t.Error("the store does not answer")
	}
}

func TestQueriesGoToAnotherStore(t *testing.T) {
	other := openLive(t, nil)
	mustAppend(t, other, "a", metric.Sample{Def: metric.HostLoad1, Value: 7, Time: time.Now()})
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var seen sync.Map
	handler := other.Handler()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.Store(r.URL.Path, r.Header.Get("Authorization"))
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	db := openLive(t, func(c *Config) { c.QueryProxy = QueryProxyConfig{URL: server.URL, BearerTokenFile: token} })
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, serve(t, db)+"/api/v1/query?query=vigil_host_load1", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer the-caller's-own")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	var body strings.Builder
	_ = response.Write(&body)
	_ = response.Body.Close()
	if !strings.Contains(body.String(), `"7"`) {
		t.Errorf("answer %s", body.String())
	}
	if got, _ := seen.Load("/api/v1/query"); got != "Bearer secret" {
		t.Errorf("the store was asked with %q", got)
	}
}

func TestRulesRecordAndTell(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rules.yml")
	text := `groups:
- name: g
  interval: 1s
  rules:
  - record: node:load:double
    expr: vigil_host_load1 * 2
  - alert: LoadHigh
    expr: vigil_host_load1 > 3
    labels: {severity: warning}
    annotations: {summary: "load of {{ $labels.node }} is {{ $value }}"}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	db := openLive(t, func(c *Config) { c.RuleFiles = []string{file}; c.ExternalLabels = map[string]string{"site": "here"} })
	var mu sync.Mutex
	var told []Alert
	rules, err := db.NewRules(RuleDeps{ExternalURL: "http://vigil", Metrics: prometheus.NewRegistry(), Log: testkit.Logger(t),
		Tell: func(_ context.Context, alerts []Alert) error {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, alerts...)
			return nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	put := func(v float64) {
		mustAppend(t, db, "a", metric.Sample{Def: metric.HostLoad1, Value: v, Time: time.Now()})
	}
	put(5)
	group := life.NewGroup(t.Context())
	group.Go("rules", rules.Run)
	last := func() (Alert, bool) {
		mu.Lock()
		defer mu.Unlock()
		if len(told) == 0 {
			return Alert{}, false
		}
		return told[len(told)-1], true
	}
	testkit.Eventually(t, "the alert", func() bool { _, ok := last(); return ok })
	a, _ := last()
	if a.Labels["alertname"] != "LoadHigh" || a.Labels["node"] != "a" || a.Value != 5 || a.Annotations["summary"] != "load of a is 5" || !a.Ends.After(time.Now()) {
		t.Errorf("alert %+v", a)
	}
	testkit.Eventually(t, "the recorded series", func() bool { return db.count(t, "node:load:double") > 0 })
	for path, want := range map[string]string{"/api/v1/rules": `"LoadHigh"`, "/api/v1/alerts": `"firing"`, "/api/v1/metadata?metric=vigil_host_load1": `"gauge"`,
		"/api/v1/status/buildinfo": `"goVersion"`, "/api/v1/query_exemplars?query=x": `[]`} {
		if got := page(t, serve(t, db)+path); !strings.Contains(got, want) || !strings.Contains(got, `"success"`) {
			t.Errorf("%s: %s", path, got)
		}
	}
	put(1)
	testkit.Eventually(t, "its end", func() bool { a, _ := last(); return !a.Ends.After(time.Now()) })
	group.Stop()
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	config := Defaults(t.TempDir())
	if err := os.WriteFile(file, []byte("groups: [{name: g, rules: [{record: x, expr: 'sum('}]}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	config.RuleFiles = []string{file}
	broken := openLive(t, func(c *Config) { c.RuleFiles = []string{file} })
	if _, err := broken.NewRules(RuleDeps{ExternalURL: "http://vigil", Metrics: prometheus.NewRegistry(), Log: testkit.Logger(t)}); err == nil {
		t.Error("a file that is wrong was taken")
	}
}

// page gives a page with its headers.
func page(t *testing.T, url string) string {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer func() { _ = response.Body.Close() }()
	var body strings.Builder
	_ = response.Write(&body)
	return body.String()
}
