package e2e

import (
	"context"
	"encoding/hex"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
)

// spans is an OTLP receiver that keeps what it is sent.
type spans struct {
	collector.UnimplementedTraceServiceServer
	mu  sync.Mutex
	got []*tracev1.Span
}

func (s *spans) Export(_ context.Context, in *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range in.ResourceSpans {
		for _, scope := range r.ScopeSpans {
			s.got = append(s.got, scope.Spans...)
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// traceOf gives the names of the spans that share a trace with the named one,
// and whether each one's parent is among them.
func (s *spans) traceOf(name string) (names []string, whole bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var id []byte
	for _, span := range s.got {
		if span.Name == name {
			id = span.TraceId
		}
	}
	ids := map[string]bool{}
	var parents []string
	for _, span := range s.got {
		if string(span.TraceId) != string(id) {
			continue
		}
		names = append(names, span.Name)
		ids[hex.EncodeToString(span.SpanId)] = true
		if len(span.ParentSpanId) > 0 {
			parents = append(parents, hex.EncodeToString(span.ParentSpanId))
		}
	}
	return names, !slices.ContainsFunc(parents, func(p string) bool { return !ids[p] })
}

// TestOneTrace follows one trace from the trainer's event to the delivered
// notification and the verified checkpoint, through three processes.
func TestOneTrace(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	received := &spans{}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, received)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	hook := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(hook.Close)

	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+listener.Addr().String())
	config := "trace: {otlp_endpoint: \"" + listener.Addr().String() + "\", plaintext: true}\n"
	h := open(t, config+"alerting: {receivers: [{name: hook, webhook: {url: \""+hook.URL+"\"}}]}\n", config)
	p := h.train("traced", "--steps", "400", "--inject", "nan-grad@200")
	if err := p.Wait(h.ctx); err != nil {
		t.Fatal(err)
	}
	h.await("traced", succeeded)

	want := []string{"vigil.nonfinite", "vigil.ingest", "vigil.detect", "vigil.incident", "vigil.notify", "vigil.command", "vigil.seal", "vigil.verify"}
	var names []string
	whole := false
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		names, whole = received.traceOf("vigil.nonfinite")
		missing := slices.DeleteFunc(slices.Clone(want), func(n string) bool { return slices.Contains(names, n) })
		if len(missing) == 0 && whole {
			t.Logf("one trace: %s", strings.Join(names, ", "))
			return
		}
	}
	t.Errorf("the trace has %v (whole: %v), want %v", names, whole, want)
}
