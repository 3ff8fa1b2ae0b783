package metrics

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/testkit"
)

func post(t *testing.T, db *DB, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	db.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, nil))
	return w.Code, w.Body.String()
}

// TestSnapshotHasAllSamples holds that a snapshot opens as a store of its own,
// with what was in the log only and with what came late, and that what is written
// afterwards is not in it.
func TestSnapshotHasAllSamples(t *testing.T) {
	db := openLive(t, nil)
	now := time.Now()
	for second := range 100 {
		mustAppend(t, db, "a", metric.Sample{Def: metric.HostLoad1, Value: float64(second), Time: now.Add(time.Duration(second-100) * time.Second)})
	}
	for second := range 50 { // an agent's that was away
		mustAppend(t, db, "a", metric.Sample{Def: metric.HostLoad1, Value: -1, Time: now.Add(time.Duration(2*second-100)*time.Second - 500*time.Millisecond)})
	}
	code, body := post(t, db, "/api/v1/admin/tsdb/snapshot")
	var got struct {
		Status string
		Data   struct{ Name string }
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil || code != http.StatusOK || got.Status != "success" {
		t.Fatalf("snapshot: %d %s, %v", code, body, err)
	}
	mustAppend(t, db, "a", metric.Sample{Def: metric.HostLoad1, Value: 7, Time: now.Add(time.Second)})
	elsewhere := filepath.Join(t.TempDir(), "metrics")
	if err := os.CopyFS(elsewhere, os.DirFS(filepath.Join(db.config.Dir, "snapshots", got.Data.Name))); err != nil {
		t.Fatal(err)
	}
	restored, err := Open(Defaults(elsewhere), Deps{Log: testkit.Logger(t), Clock: time.Now, Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = restored.Close() })
	if n := restored.count(t, metric.HostLoad1.Name); n != 150 {
		t.Errorf("the snapshot has %d samples, want 150", n)
	}
	mustAppend(t, restored, "a", metric.Sample{Def: metric.HostLoad1, Value: 8, Time: now.Add(time.Minute)})
	if n := restored.count(t, metric.HostLoad1.Name); n != 151 {
		t.Errorf("after one more there are %d", n)
	}
	if code, body := post(t, db, "/api/v1/admin/tsdb/snapshot?skip_head=perhaps"); code != http.StatusBadRequest {
		t.Errorf("skip_head=perhaps: %d %s", code, body)
	}
}

// TestOnlyQuestionsAreHandedOn holds that whoever may read here cannot have the
// other store changed, with the token that this one has for it.
func TestOnlyQuestionsAreHandedOn(t *testing.T) {
	var asked []string
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked = append(asked, r.Method+" "+r.URL.Path) }))
	t.Cleanup(other.Close)
	db := openLive(t, func(c *Config) { c.QueryProxy = QueryProxyConfig{URL: other.URL + "/prometheus"} })
	handler := db.Handler()
	for _, request := range []string{
		"POST /api/v1/query", "GET /api/v1/label/job/values", "POST /api/v1/series", "GET /api/v1/metadata", "POST /api/v1/admin/tsdb/delete_series",
		"PUT /api/v1/admin/tsdb/clean_tombstones", "DELETE /api/v1/series", "POST /api/v1/push", "GET /api/v1/status/config", "POST /api/v1/../../-/quit", "GET /api/v1/rules",
	} {
		method, path, _ := strings.Cut(request, " ")
		handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), method, path, nil))
	}
	want := "POST /prometheus/api/v1/query, GET /prometheus/api/v1/label/job/values, POST /prometheus/api/v1/series, GET /prometheus/api/v1/metadata"
	if got := strings.Join(asked, ", "); got != want {
		t.Errorf("the other store was asked\n%s, want\n%s", got, want)
	}
}
