package telemetry

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/vigil-ml/vigil/internal/metric"
)

func TestTraceparentRoundTrip(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	if got := Traceparent(WithTraceparent(context.Background(), parent)); got != parent {
		t.Errorf("came back as %q", got)
	}
	for _, bad := range []string{"", "rubbish"} {
		if got := Traceparent(WithTraceparent(context.Background(), bad)); got != "" {
			t.Errorf("%q became %q", bad, got)
		}
	}
}

func TestHandle(t *testing.T) {
	reg := NewRegistry()
	metric.NewGauge(reg, metric.AgentUplinkConnected).WithLabelValues().Set(1)
	health := errors.New("spool: disk is full")
	mux := http.NewServeMux()
	Handle(mux, Metrics(reg), func() error { return health })

	get := func(path string) (int, string) {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		return w.Code, w.Body.String()
	}
	if code, body := get("/healthz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "disk is full") {
		t.Errorf("healthz = %d %q", code, body)
	}
	health = nil
	if code, _ := get("/healthz"); code != http.StatusOK {
		t.Errorf("healthz = %d", code)
	}
	if _, body := get("/metrics"); !strings.Contains(body, "vigil_agent_uplink_connected 1") {
		t.Error("the gauge is not in /metrics")
	}
}

// TestExemplarsAreShown holds that who asks for OpenMetrics sees the trace that a
// latency was measured in.
func TestExemplarsAreShown(t *testing.T) {
	reg := NewRegistry()
	latency := metric.NewLatency(reg, metric.ControlPipelineLag).WithLabelValues()
	metric.ObserveTraced(latency, 0.25, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	metric.ObserveTraced(latency, 0.5, "rubbish")
	mux := http.NewServeMux()
	Handle(mux, Metrics(reg), func() error { return nil })
	request := httptest.NewRequest("GET", "/metrics", nil)
	request.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, request)
	body := w.Body.String()
	if strings.Count(body, `trace_id="0af7651916cd43dd8448eb211c80319c"`) != 1 {
		t.Errorf("the exemplar is not in /metrics:\n%.2000s", body[strings.Index(body, "vigil_control"):])
	}
	if !strings.Contains(body, "vigil_control_pipeline_lag_seconds_count 2") {
		t.Error("a value without a trace was not counted")
	}
}

func TestLogConfigCheck(t *testing.T) {
	var keys []string
	LogConfig{Level: "loud", Format: "xml"}.Check(func(key, _ string, _ ...any) { keys = append(keys, key) })
	if strings.Join(keys, " ") != "level format" {
		t.Errorf("reported %v", keys)
	}
}
