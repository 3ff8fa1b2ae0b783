package alertapi_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
)

// BenchmarkPost takes alerts in, 64 a request, all new or all seen before, with
// everything on stable storage when it answers.
func BenchmarkPost(b *testing.B) {
	const batch = 64
	for _, again := range []bool{false, true} {
		b.Run(fmt.Sprintf("again=%v", again), func(b *testing.B) {
			w := newWorld(b, b.TempDir(), "alerting:\n  receivers: [{name: a, webhook: {url: 'http://127.0.0.1:1/'}}]\n"+
				"  route: {receiver: a, group_by: [alertname, i], group_wait: 1h, group_interval: 1h}\n")
			post := func(from int) {
				var alerts []any
				for i := from; i < from+batch; i++ {
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
			if again {
				for from := 0; from < 1024; from += batch {
					post(from)
				}
			}
			n := 0
			for b.Loop() {
				if again {
					post(n * batch % 1024)
				} else {
					post(n * batch)
				}
				n++
			}
			b.ReportMetric(float64(n*batch)/b.Elapsed().Seconds(), "alerts/s")
		})
	}
}
