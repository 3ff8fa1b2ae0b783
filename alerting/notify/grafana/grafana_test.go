package grafana

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/alerting/notify/notifytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	notifytest.Run(t, notifytest.Suite{
		New: func(t *testing.T, url string, deps notify.Deps) notify.Notifier {
			n, err := New(Config{URL: notify.Secret(url), Token: "glsa_s3cretSECRET"}, deps)
			if err != nil {
				t.Fatal(err)
			}
			return n
		},
		Key: func(t *testing.T, r notifytest.Request) string {
			a := check(t, r.Body)
			return a.Tags[slices.IndexFunc(a.Tags, func(tag string) bool { return len(tag) > 9 && tag[:9] == "incident:" })]
		},
		Success: `{"message":"Annotation added","id":7}`,
	})
}

// check holds an annotation against what Grafana documents.
func check(t *testing.T, body []byte) annotation {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	var a annotation
	if err := decoder.Decode(&a); err != nil {
		t.Fatalf("decode annotation: %v\n%s", err, body)
	}
	if a.Text == "" || a.Time <= 0 || (a.TimeEnd != 0 && a.TimeEnd < a.Time) || len(a.Tags) == 0 {
		t.Errorf("annotation %+v", a)
	}
	return a
}

// grafana is a server that keeps annotations as Grafana does.
type grafana struct {
	*testing.T
	kept  map[string]annotation
	calls []string
}

func (g *grafana) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	g.calls = append(g.calls, r.Method+" "+r.URL.Path)
	a := check(g.T, body)
	id := r.URL.Path[len("/api/annotations"):]
	switch {
	case r.Header.Get("Authorization") != "Bearer t":
		w.WriteHeader(http.StatusUnauthorized)
	case r.Method == http.MethodPost && id == "":
		id = fmt.Sprint("/", len(g.calls))
		g.kept[id] = a
		_, _ = fmt.Fprintf(w, `{"message":"Annotation added","id":%s}`, id[1:])
	case r.Method == http.MethodPatch && g.kept[id].Time != 0:
		g.kept[id] = a
		_, _ = io.WriteString(w, `{"message":"Annotation patched"}`)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func TestARegionOpensAndCloses(t *testing.T) {
	g := &grafana{T: t, kept: map[string]annotation{}}
	server := httptest.NewServer(g)
	defer server.Close()
	client := server.Client()
	defer client.CloseIdleConnections()
	n, err := New(Config{URL: notify.Secret(server.URL), Token: "t", DashboardUID: "run", Tags: []string{"ml"}}, notify.Deps{
		HTTPClient: client, Log: slog.New(slog.DiscardHandler), Memory: &notifytest.Memory{},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Notify(t.Context(), notifytest.Firing()); err != nil {
		t.Fatal(err)
	}
	if err := n.Notify(t.Context(), notifytest.Firing()); err != nil { // again, after a crash
		t.Fatal(err)
	}
	if err := n.Notify(t.Context(), notifytest.Resolved()); err != nil {
		t.Fatal(err)
	}
	want := []string{"POST /api/annotations", "PATCH /api/annotations/1", "PATCH /api/annotations/1"}
	if diff := cmp.Diff(want, g.calls); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if a := g.kept["/1"]; a.TimeEnd-a.Time != 12400 {
		t.Errorf("the region is %d ms long, want 12400", a.TimeEnd-a.Time)
	}

	// One that somebody deleted is written anew, with its end.
	if err := n.Notify(t.Context(), notifytest.Firing()); err != nil {
		t.Fatal(err)
	}
	clear(g.kept)
	if err := n.Notify(t.Context(), notifytest.Resolved()); err != nil {
		t.Fatal(err)
	}
	if len(g.kept) != 1 {
		t.Errorf("kept %v", g.kept)
	}
}

// TestOnTheDashboardOfTheRun: where each run has a dashboard of its own the
// incident is on it, and what is of no run is on none.
func TestOnTheDashboardOfTheRun(t *testing.T) {
	n := &notifier{config: Config{DashboardUID: "run-{run}", PanelID: 3}}
	d := notifytest.Firing()
	if got := n.dashboard(d); got != "run-"+d.Incident.GetRunId() {
		t.Errorf("dashboard %q", got)
	}
	d.Incident.RunId = ""
	if got := n.dashboard(d); got != "" {
		t.Errorf("an incident of no run is on dashboard %q", got)
	}
}
