package alertapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/goleak"

	"github.com/vigil-ml/vigil/alerting"
	"github.com/vigil-ml/vigil/controlplane/alertapi"
	"github.com/vigil-ml/vigil/controlplane/incident"
	"github.com/vigil-ml/vigil/controlplane/routing"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hook is a webhook that keeps what it is sent, by path.
type hook struct {
	*httptest.Server
	mu   sync.Mutex
	sent []message
}

// message is Alertmanager's webhook data as far as two tellers must agree on
// it.
type message struct {
	Receiver          string            `json:"receiver"`
	Status            string            `json:"status"`
	GroupKey          string            `json:"groupKey"`
	TruncatedAlerts   int               `json:"truncatedAlerts"`
	Version           string            `json:"version"`
	GroupLabels       map[string]string `json:"groupLabels"`
	CommonLabels      map[string]string `json:"commonLabels"`
	CommonAnnotations map[string]string `json:"commonAnnotations"`
	Alerts            []alertData       `json:"alerts"`
}

type alertData struct {
	Status       string            `json:"status"`
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
	Fingerprint  string            `json:"fingerprint"`
	GeneratorURL string            `json:"generatorURL"`
	StartsAt     time.Time         `json:"startsAt"`
	EndsAt       time.Time         `json:"endsAt"`
}

func newHook(t testing.TB) *hook {
	h := &hook{}
	h.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var m message
		text, err := io.ReadAll(r.Body)
		if err == nil {
			err = json.Unmarshal(text, &m)
		}
		if err != nil {
			t.Errorf("webhook got %s: %v", text, err)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.sent = append(h.sent, m)
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *hook) messages() []message {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]message(nil), h.sent...)
}

// world is the alerting half of a control plane behind a port.
type world struct {
	*httptest.Server
	store *store.Store
	stop  func()
}

// newWorld starts one with the `alerting:` and `incident:` parts of a
// configuration, on a store in dir.
func newWorld(t testing.TB, dir, config string) *world {
	t.Helper()
	var c struct {
		Alerting alerting.Config `yaml:"alerting"`
		Incident incident.Config `yaml:"incident"`
	}
	c.Alerting, c.Incident = alerting.Defaults(), incident.Defaults()
	must(t, conf.Decode("vigil.yaml", []byte(config), &c))
	log, tracer := testkit.Logger(t), noop.NewTracerProvider().Tracer("")
	s, err := store.Open(t.Context(), store.Config{Path: filepath.Join(dir, "vigil.db")}, store.Deps{Log: log})
	must(t, err)
	client := &http.Client{Transport: &http.Transport{}}
	alerts, err := alerting.New(c.Alerting, alerting.Deps{
		Queue: s.Outbox(), Log: log, Metrics: prometheus.NewRegistry(), Tracer: tracer, HTTPClient: client,
	})
	must(t, err)
	plan, err := c.Alerting.Plan(alerts.Receivers())
	must(t, err)
	router := routing.New(routing.Deps{Plan: plan, Store: s, Clock: time.Now, Log: log})
	engine := incident.New(c.Incident, incident.Deps{
		Router: router, Store: s, Clock: time.Now, Log: log, Tracer: tracer, Metrics: prometheus.NewRegistry(),
	})
	group := life.NewGroup(context.Background())
	group.Go("alerting", alerts.Run)
	group.Go("routing", router.Run)
	group.Go("incidents", engine.Run)
	w := &world{store: s, Server: httptest.NewServer(alertapi.New(alertapi.Deps{
		Store: s, Incidents: engine, Router: router, Config: router.Config, Clock: time.Now, Log: log, Version: "0.25.0",
	}))}
	w.stop = sync.OnceFunc(func() {
		w.Close()
		group.Stop()
		must(t, group.Wait())
		must(t, s.Close())
		client.CloseIdleConnections()
	})
	t.Cleanup(w.stop)
	return w
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// call makes a request with a JSON body and gives the answer's status and text.
func call(t testing.TB, method, url string, body any) (int, string) {
	t.Helper()
	text, err := json.Marshal(body)
	must(t, err)
	request, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(text))
	must(t, err)
	request.Header.Set("Content-Type", "application/json")
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	must(t, err)
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	must(t, err)
	return response.StatusCode, string(answer)
}
