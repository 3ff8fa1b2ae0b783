package controlplane

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vigil-ml/vigil/controlplane/load"
)

func TestReadyTellsOfEachPart(t *testing.T) {
	var wrong error
	r := &readiness{checks: []check{
		{"store", func(context.Context) error { return wrong }},
		{"bus", func(context.Context) error { return nil }},
	}}
	ask := func(status int, body string) {
		t.Helper()
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest("GET", "/readyz", nil))
		if w.Code != status || w.Body.String() != body {
			t.Errorf("answered %d %q, want %d %q", w.Code, w.Body, status, body)
		}
	}
	ask(http.StatusOK, "draining: ok\nstore: ok\nbus: ok\n")
	wrong = errors.Join(errors.New("no answer"), errors.New("for long"))
	ask(http.StatusServiceUnavailable, "draining: ok\nstore: no answer; for long\nbus: ok\n")
	wrong = nil
	r.draining.Store(true)
	ask(http.StatusServiceUnavailable, "draining: this replica goes away\nstore: ok\nbus: ok\n")
}

func TestDrainDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &readiness{}
		ctx, stop := context.WithCancel(t.Context())
		later, done := r.untilDrained(ctx, 10*time.Second)
		defer done()
		begun := time.Now()
		stop()
		synctest.Wait()
		if !r.draining.Load() || later.Err() != nil {
			t.Errorf("draining %v, %v; want to go on and say so", r.draining.Load(), later.Err())
		}
		<-later.Done()
		if took := time.Since(begun); took != 10*time.Second {
			t.Errorf("went on for %s", took)
		}
	})
}

func TestRequestsAreRefusedForWantOfMemory(t *testing.T) {
	used, now := uint64(0), time.Unix(1, 0)
	gauge := load.New(1000, load.Deps{
		Metrics: prometheus.NewRegistry(), Clock: func() time.Time { now = now.Add(time.Second); return now },
		Read: func() load.Usage { return load.Usage{Live: used} },
	})
	handler := shedding(gauge, ofMetrics, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	operators := shedding(gauge, ofOperators, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for _, tc := range []struct {
		used    uint64
		handler http.Handler
		path    string
		want    int
	}{
		{100, handler, "/api/v1/write", 200},
		{100, operators, "/api/v2/alerts", 200},
		{900, handler, "/api/v1/write", 429},
		{900, handler, "/api/v1/query", 429},
		{900, operators, "/api/v2/alerts", 200},
		{990, operators, "/api/v2/alerts", 429},
	} {
		used = tc.used
		w := httptest.NewRecorder()
		tc.handler.ServeHTTP(w, httptest.NewRequest("POST", tc.path, nil))
		if after := w.Header().Get("Retry-After"); w.Code != tc.want || (after != "") != (tc.want == 429) {
			t.Errorf("with %d of 1000 bytes %s: %d, Retry-After %q; want %d", tc.used, tc.path, w.Code, after, tc.want)
		}
	}
}
