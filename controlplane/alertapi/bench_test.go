package alertapi_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/internal/testkit"
)

// BenchmarkPost takes alerts in, 64 a request, all new or all seen before, with
// everything on stable storage when it answers.
func BenchmarkPost(b *testing.B) {
	const batch = 64
	for _, again := range []bool{false, true} {
		b.Run(fmt.Sprintf("again=%v", again), func(b *testing.B) {
			w := newWorld(b, b.TempDir(), "alerting:\n  receivers: [{name: a, webhook: {url: 'http://127.0.0.1:1/'}}]\n"+
				"  route: {receiver: a, group_by: [alertname, i], group_wait: 1h, group_interval: 1h}\n")
			if again {
				for from := 0; from < 1024; from += batch {
					w.postBatch(b, from, batch)
				}
			}
			n, used := 0, cpu(b)
			for b.Loop() {
				if again {
					w.postBatch(b, n*batch%1024, batch)
				} else {
					w.postBatch(b, n*batch, batch)
				}
				n++
			}
			b.ReportMetric(float64(n*batch)/(cpu(b)-used).Seconds(), "alerts/s_a_core")
		})
	}
}

// BenchmarkTold takes alerts in, 64 a request, each of which is told to a
// webhook by itself. The webhook's own work is in the figure.
func BenchmarkTold(b *testing.B) {
	const batch = 64
	var told atomic.Int64
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		told.Add(1)
	}))
	defer hook.Close()
	w := newWorld(b, b.TempDir(), "alerting:\n  receivers: [{name: a, webhook: {url: '"+hook.URL+"'}}]\n"+
		"  storm: {after: 0}\n  route: {receiver: a, group_by: [alertname, i]}\n")
	n := 0
	for b.Loop() {
		w.postBatch(b, n*batch, batch)
		n++
		testkit.Eventually(b, "the webhooks", func() bool { return told.Load() >= int64(n*batch) })
	}
	b.ReportMetric(float64(n*batch)/b.Elapsed().Seconds(), "told/s")
}

// postBatch posts alerts without a connection.
func (w *world) postBatch(b *testing.B, from, count int) {
	b.Helper()
	var alerts []any
	for i := from; i < from+count; i++ {
		alerts = append(alerts, map[string]any{"labels": map[string]string{
			"alertname": "Slow", "i": strconv.Itoa(i), "severity": "critical", "node": fmt.Sprintf("gpu-%03d", i%100), "job": "node",
		}, "annotations": map[string]string{"summary": "It is slow"}})
	}
	text, err := json.Marshal(alerts)
	must(b, err)
	r := httptest.NewRequest(http.MethodPost, "/api/v2/alerts", bytes.NewReader(text))
	r.Header.Set("Content-Type", "application/json")
	answer := httptest.NewRecorder()
	w.Config.Handler.ServeHTTP(answer, r)
	if answer.Code != http.StatusOK {
		b.Fatal(answer.Body)
	}
}

// cpu is the CPU time that the process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var use syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &use))
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}
