package metrics

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/internal/testkit"
)

// TestRemoteWriteToPrometheus has a real Prometheus killed while it is sent to,
// and started again later: it has every sample, also those that came late.
func TestRemoteWriteToPrometheus(t *testing.T) {
	real := peer{url: "http://127.0.0.1:" + testkit.FreePort(t), dir: t.TempDir()}
	config := "global: {}\nstorage: {tsdb: {out_of_order_time_window: 6h}}\n"
	if err := os.WriteFile(filepath.Join(real.dir, "prometheus.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	kill := real.run(t)
	db := openLive(t, func(c *Config) { c.RemoteWrite = []RemoteWriteConfig{{Name: "real", URL: real.url + "/api/v1/write"}} })
	from, written := time.Now().Add(-time.Hour).Truncate(time.Second), 0
	write := func(first, n int) {
		for i := range n {
			foreign(t, db, "node_load1", from.Add(time.Duration(first+i)*time.Second), float64(i))
		}
		written += n
	}
	all := func() {
		t.Helper()
		form := url.Values{"query": {"sum(count_over_time(node_load1[2h]))"}, "time": {fmt.Sprint(time.Now().Unix())}}
		testkit.Eventually(t, fmt.Sprintf("%d samples", written), func() bool {
			return strings.Contains(fmt.Sprint(askPeer(t, real.url, "query", form, true).Data), fmt.Sprintf(" %d]", written))
		})
	}
	write(600, 100)
	all()
	kill()
	write(700, 2800)
	write(100, 100)
	real.run(t)
	write(3500, 10)
	all()
}

// TestPrometheusWritesHere has a real Prometheus, which scrapes itself, push here
// by remote write.
func TestPrometheusWritesHere(t *testing.T) {
	db := openLive(t, nil)
	startPeer(t, fmt.Sprintf(`global: {scrape_interval: 200ms, scrape_timeout: 200ms, external_labels: {site: there}}
scrape_configs: [{job_name: self, static_configs: [{targets: [SELF]}]}]
remote_write: [{url: "%s/api/v1/write", queue_config: {batch_send_deadline: 200ms}}]
`, serve(t, db)))
	testkit.Eventually(t, "what it says of itself", func() bool { return db.count(t, "prometheus_build_info") >= 5 })
	got := page(t, serve(t, db)+"/api/v1/series?match[]=prometheus_build_info")
	for _, want := range []string{`"site":"there"`, `"job":"self"`} {
		if !strings.Contains(got, want) {
			t.Errorf("series %s, want %s", got, want)
		}
	}
}
