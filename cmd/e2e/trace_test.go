package e2e

import (
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/controlplane/export/otlp/otlptest"
)

// traceOf gives the names of the spans that share a trace with the named one,
// sorted, and whether each one's parent is among them.
func traceOf(got []otlptest.Span, name string) (names []string, whole bool) {
	var id []byte
	for _, span := range got {
		if span.Name == name {
			id = span.TraceId
		}
	}
	ids := map[string]bool{}
	var parents []string
	for _, span := range got {
		if string(span.TraceId) != string(id) {
			continue
		}
		names = append(names, span.Name)
		ids[hex.EncodeToString(span.SpanId)] = true
		if len(span.ParentSpanId) > 0 {
			parents = append(parents, hex.EncodeToString(span.ParentSpanId))
		}
	}
	slices.Sort(names)
	return names, !slices.ContainsFunc(parents, func(p string) bool { return !ids[p] })
}

// pathOfATrace are the spans of a problem, from the trainer's event to the
// delivered notification and the verified checkpoint, in alphabetical order.
func pathOfATrace() []string {
	return []string{
		"vigil.command", "vigil.command.send", "vigil.detect", "vigil.directive", "vigil.incident", "vigil.ingest", "vigil.journal",
		"vigil.nonfinite", "vigil.notify", "vigil.save", "vigil.seal", "vigil.verify",
	}
}

// awaitTrace waits until the whole path is there under one trace.
func awaitTrace(t *testing.T, received *otlptest.Receiver) {
	t.Helper()
	var names []string
	whole := false
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		names, whole = traceOf(received.Spans(), "vigil.nonfinite")
		missing := slices.DeleteFunc(pathOfATrace(), func(n string) bool { return slices.Contains(names, n) })
		if len(missing) == 0 && whole {
			t.Logf("one trace: %s", strings.Join(names, ", "))
			return
		}
	}
	t.Errorf("the trace has %v (whole: %v), want %v", names, whole, pathOfATrace())
}

// TestOneTrace follows one trace through three processes, each of which sends
// its spans itself.
func TestOneTrace(t *testing.T) {
	received := otlptest.New(t)
	hook := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(hook.Close)

	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+received.Address())
	config := "trace: {otlp_endpoint: \"" + received.Address() + "\", plaintext: true}\n"
	h := open(t, config+"alerting: {receivers: [{name: hook, webhook: {url: \""+hook.URL+"\"}}]}\n", config)
	p := h.train("traced", "--steps", "400", "--inject", "nan-grad@200")
	if err := p.Wait(h.ctx); err != nil {
		t.Fatal(err)
	}
	h.await("traced", succeeded)
	awaitTrace(t, received)
}

// TestTelemetryOutlivesAnOutage holds that spans, logs and metrics of all three
// programs are at the receiver once, though it was not there while everything
// happened, and the control plane was restarted before it was.
func TestTelemetryOutlivesAnOutage(t *testing.T) {
	received := otlptest.New(t)
	received.Stop()
	hook := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(hook.Close)
	h := open(t, "metrics_interval: 1s\nexports: [{name: otel, kind: otlp, settings: {endpoint: \""+received.Address()+"\", plaintext: true}}]\n"+
		"alerting: {receivers: [{name: hook, webhook: {url: \""+hook.URL+"\"}}]}\n", "forward: {traces: true, logs: true}\n")
	p := h.train("traced", "--steps", "400", "--inject", "nan-grad@200")
	if err := p.Wait(h.ctx); err != nil {
		t.Fatal(err)
	}
	h.await("traced", succeeded)
	if err := h.controlPlane.Stop(); err != nil {
		t.Fatal(err)
	}
	h.startControlPlane()
	if n := received.Requests(); n != 0 {
		t.Fatalf("the receiver got %d requests while it was away", n)
	}
	received.Start()
	awaitTrace(t, received)

	h.until("lines of all programs' logs", func() bool {
		programs := map[string]bool{}
		for _, l := range received.Logs() {
			if l.Record.GetEventName() == "" { // it was logged, and is no event
				programs[otlptest.Attribute(l.Resource.GetAttributes(), "service.name")] = true
			}
		}
		return programs["vigil-agent"] && programs["vigil-controlplane"] && programs["vigil-trainer"]
	})
	h.until("the trace of a latency", func() bool { return exemplified(received, "vigil_control_detect_seconds") })
	for uid, n := range received.Times() {
		if n != 1 {
			t.Errorf("log record %s came %d times", uid, n)
		}
	}
	spans := map[string]int{}
	for _, s := range received.Spans() {
		spans[string(s.GetSpanId())]++
	}
	for id, n := range spans {
		if n != 1 {
			t.Errorf("span %x came %d times", id, n)
		}
	}
}

// exemplified tells whether a histogram came with the trace of a value.
func exemplified(received *otlptest.Receiver, name string) bool {
	for _, of := range received.Metrics() {
		for _, scope := range of.GetScopeMetrics() {
			for _, m := range scope.GetMetrics() {
				for _, p := range m.GetHistogram().GetDataPoints() {
					if m.GetName() == name && len(p.GetExemplars()) > 0 && len(p.GetExemplars()[0].GetTraceId()) == 16 {
						return true
					}
				}
			}
		}
	}
	return false
}
