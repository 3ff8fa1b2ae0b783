package controlplane_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/vigil-ml/vigil/controlplane"
	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/controlplane/export/elastic/elastictest"
	"github.com/vigil-ml/vigil/controlplane/export/otlp/otlptest"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/localkey"
	"github.com/vigil-ml/vigil/internal/testkit"
	"github.com/vigil-ml/vigil/internal/testkit/postgres"
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
// Elasticsearch was away, and again on the backup that its agentctl made of the
// records: what it had not exported is exported once, also over a restart, an
// exporter that is new gets everything, its dead letters can be replayed, its
// samples are there, and its audit log is good.
func TestPreviousRelease(t *testing.T) {
	t.Run("its state", func(t *testing.T) { previousOpens(t, unpack(t, "testdata/state-schema-13.tar.gz")) })
	t.Run("its backup", func(t *testing.T) {
		dir := unpack(t, "testdata/state-schema-13.tar.gz")
		records := filepath.Join(dir, "vigil.db")
		if err := os.Remove(records); err != nil {
			t.Fatal(err)
		}
		restorePrevious(t, store.Config{Path: records})
		previousOpens(t, dir)
	})
}

func restorePrevious(t *testing.T, at store.Config) {
	t.Helper()
	file, err := os.Open("testdata/backup-schema-13.vigil")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if rows, err := store.Restore(t.Context(), at, file, false); err != nil || rows != 62 {
		t.Fatalf("restored %d rows: %v", rows, err)
	}
}

func previousOpens(t *testing.T, dir string) {
	all, events := waiting(t, filepath.Join(dir, "bus"), 0), waiting(t, filepath.Join(dir, "bus"), previousExported)
	fake, received := elastictest.New(t), otlptest.New(t)
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	api := freeAddress(t)
	config := controlplane.Defaults()
	text := fmt.Sprintf(`state_dir: %q
api: {listen: %q}
agents: {listen: "127.0.0.1:0"}
bus: {max_age: 876000h}
metrics: {retention: 876000h}
exports:
- {name: search, kind: elastic, settings: {addresses: [%q]}}
- {name: otel, kind: otlp, streams: [events, findings, incidents], settings: {endpoint: %q, plaintext: true}}
`, dir, api, fake.URL(), received.Address())
	if err := conf.Decode("previous.yaml", []byte(text), &config); err != nil {
		t.Fatal(err)
	}
	there := func(stream string, want int) {
		t.Helper()
		name := "logs-vigil." + stream + "-default"
		testkit.Eventually(t, name, func() bool { _, n := fake.Documents(name); return n >= want })
		if ids, n := fake.Documents(name); len(ids) != want || n != want {
			t.Errorf("%s has %d ids and %d documents, want %d", name, len(ids), n, want)
		}
	}
	for range 2 { // the second time on what the first one left
		stop := startUntil(t, config)
		there("events", events)
		there("findings", 1)
		there("incidents", 2)
		testkit.Eventually(t, "the new exporter", func() bool { return len(received.Logs()) >= all })
		stop()
	}
	start(t, config)
	of := map[string]int{}
	for uid, n := range received.Times() {
		if n != 1 {
			t.Errorf("log record %s came %d times", uid, n)
		}
	}
	for _, l := range received.Logs() {
		of[l.Record.GetEventName()]++
	}
	if of["vigil.events"] != all || of["vigil.findings"] == 0 || of["vigil.incidents"] == 0 {
		t.Errorf("the new exporter got %v, want %d events", of, all)
	}
	ask := asker(t, api)
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
	page := ask("GET", "/metrics", "")
	for _, line := range []string{
		"vigil_control_commands_open ", "vigil_control_bus_frames ", "vigil_control_bus_bytes ", "vigil_control_pipeline_behind_seconds{", "\nvigil_control_export_lag_seconds{exporter=\"search\"} ",
		"vigil_control_store_seconds_count{kind=\"write\"} ", "\nprometheus_tsdb_head_series ", "\nprometheus_engine_queries ",
	} {
		if !strings.Contains(page, line) {
			t.Errorf("the metrics page has no %q", line)
		}
	}
	if got := ask("POST", "/vigil.control.v1.AuditService/SearchRecords", `{}`); !strings.Contains(got, "ReplayExports") {
		t.Errorf("the audit log: %s", got)
	}
}

// asker gives what asks a control plane as its own user.
func asker(t *testing.T, api string) func(method, path, body string) string {
	t.Helper()
	return func(method, path, body string) string {
		t.Helper()
		var secret string
		testkit.Eventually(t, "the secret", func() (there bool) {
			var err error
			secret, err = localkey.Find(api, localkey.Operator)
			return err == nil && secret != ""
		})
		request, err := http.NewRequestWithContext(t.Context(), method, "http://"+api+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+secret)
		request.Header.Set("Content-Type", "application/json")
		var response *http.Response
		testkit.Eventually(t, "the control plane", func() bool { response, err = http.DefaultClient.Do(request); return err == nil })
		defer func() { _ = response.Body.Close() }()
		answer, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d %s, %v", path, response.StatusCode, answer, err)
		}
		return string(answer)
	}
}

// TestPreviousBackupMovesToPostgreSQL restores the previous release's backup into
// PostgreSQL, which brings its schema from version 13 to today's with the rows in
// it, and holds the records against those that the same gives in SQLite.
func TestPreviousBackupMovesToPostgreSQL(t *testing.T) {
	contents := func(at store.Config) (all []any) {
		restorePrevious(t, at)
		s, err := store.Open(t.Context(), at, store.Deps{Log: testkit.Logger(t)})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		err = s.View(t.Context(), func(tx *store.Tx) error {
			runs, err := tx.Runs(0)
			if err != nil || len(runs) == 0 {
				t.Fatalf("%d runs, %v", len(runs), err)
			}
			all = append(all, runs)
			for _, name := range []string{"pipeline/0", "export/search/events", "export/search/records"} {
				at, err := tx.Cursor(name)
				if err != nil {
					return err
				}
				all = append(all, at)
			}
			open, err := tx.AllOpen(0)
			if err != nil {
				return err
			}
			records, err := tx.ExportRecords(0, 100)
			all = append(all, open, records)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	want := contents(store.Config{Path: filepath.Join(t.TempDir(), "vigil.db")})
	got := contents(store.Config{URL: postgres.Start(t, "fsync=off").URL(t)})
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("(-SQLite +PostgreSQL):\n%s", diff)
	}
}
