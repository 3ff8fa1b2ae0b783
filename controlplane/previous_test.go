package controlplane_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vigil-ml/vigil/controlplane"
	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/controlplane/export/elastic/elastictest"
	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/localkey"
	"github.com/vigil-ml/vigil/internal/testkit"
)

// waiting counts the events on the bus of a state directory behind a sequence.
func waiting(t *testing.T, dir string, behind uint64) (events int) {
	t.Helper()
	config := bus.Defaults(dir)
	config.MaxAge = 876000 * time.Hour
	b, err := bus.Open(t.Context(), config, bus.Deps{Log: testkit.Logger(t), Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err = b.Consume(ctx, behind+1, func(_ context.Context, frames []bus.Delivery) error {
		for _, frame := range frames {
			events += len(frame.Batch.GetEvents())
			if frame.Sequence == previousFrames {
				cancel()
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return events
}

// What is in the state of the previous release: 46 frames on the bus, of which
// its exporter had exported 8, and 5 records, of which it had exported 2.
const (
	previousFrames   = 46
	previousExported = 8
)

// TestPreviousRelease starts a control plane on the whole state directory that
// the previous release, with version 13 of the schema, left while its exporter's
// Elasticsearch was away: what it had not exported is exported once, its dead
// letters can be replayed, its samples are there, and its audit log is good.
func TestPreviousRelease(t *testing.T) {
	dir := unpack(t, "testdata/state-schema-13.tar.gz")
	events, fake := waiting(t, filepath.Join(dir, "bus"), previousExported), elastictest.New(t)
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	api := freeAddress(t)
	config := controlplane.Defaults()
	text := fmt.Sprintf(`state_dir: %q
api: {listen: %q}
agents: {listen: "127.0.0.1:0"}
bus: {max_age: 876000h}
metrics: {retention: 876000h}
exports: [{name: search, kind: elastic, settings: {addresses: [%q]}}]
`, dir, api, fake.URL())
	if err := conf.Decode("previous.yaml", []byte(text), &config); err != nil {
		t.Fatal(err)
	}
	start(t, config)
	there := func(stream string, want int) {
		t.Helper()
		name := "logs-vigil." + stream + "-default"
		testkit.Eventually(t, name, func() bool { _, n := fake.Documents(name); return n >= want })
		if ids, n := fake.Documents(name); len(ids) != want || n != want {
			t.Errorf("%s has %d ids and %d documents, want %d", name, len(ids), n, want)
		}
	}
	there("events", events)
	there("findings", 1)
	there("incidents", 2)

	secret, err := localkey.Find(api, localkey.Operator)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(method, path, body string) string {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), method, "http://"+api+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+secret)
		request.Header.Set("Content-Type", "application/json")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }()
		answer, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d %s, %v", path, response.StatusCode, answer, err)
		}
		return string(answer)
	}
	defer http.DefaultClient.CloseIdleConnections()
	if got := ask("POST", "/vigil.control.v1.ExportService/ReplayExports", `{"name":"search"}`); !strings.Contains(got, `"taken":"6"`) {
		t.Errorf("the replay of six dead letters: %s", got)
	}
	there("events", events+4)
	there("findings", 2)
	there("incidents", 3)

	query := url.Values{"query": {`max(last_over_time(vigil_run_step{run="digits"}[1h]))`}, "time": {"2026-11-28T08:28:00Z"}}
	if got := ask("GET", "/api/v1/query?"+query.Encode(), ""); !strings.Contains(got, `"60"`) {
		t.Errorf("the run's last step among the samples: %s", got)
	}
	if got := ask("POST", "/vigil.control.v1.AuditService/SearchRecords", `{}`); !strings.Contains(got, "ReplayExports") {
		t.Errorf("the audit log: %s", got)
	}
}
