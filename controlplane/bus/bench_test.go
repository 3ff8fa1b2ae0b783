package bus

import (
	"log/slog"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// BenchmarkPublish measures one synchronous publish of a small frame under each
// sync policy, on the file system of the temporary directory.
func BenchmarkPublish(b *testing.B) {
	for _, sync := range []string{SyncAlways, SyncInterval} {
		b.Run("sync="+sync, func(b *testing.B) {
			config := testConfig(b.TempDir())
			config.Sync = sync
			opened, err := Open(b.Context(), config, Deps{Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
			if err != nil {
				b.Fatal(err)
			}
			defer opened.Close()
			n := uint64(0)
			for b.Loop() {
				n++
				publish(b, opened, frame("a", "r", 1, n))
			}
		})
	}
}
