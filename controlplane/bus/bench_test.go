package bus

import (
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vigil-ml/vigil/internal/testkit/natscluster"
)

// BenchmarkPublish measures how many small frames a second become durable when
// so many agents each have one on its way, on the file system of the temporary
// directory: under each sync policy, and on a cluster of three servers.
func BenchmarkPublish(b *testing.B) {
	for _, sync := range []string{SyncAlways, SyncInterval} {
		b.Run("sync="+sync, func(b *testing.B) {
			config := testConfig(b.TempDir())
			config.Sync = sync
			benchPublish(b, config)
		})
	}
	b.Run("cluster", func(b *testing.B) {
		benchPublish(b, sharedConfig(natscluster.Start(b, 3).URL()))
	})
}

func benchPublish(b *testing.B, config Config) {
	opened, err := Open(b.Context(), config, Deps{Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	if err != nil {
		b.Fatal(err)
	}
	defer opened.Close()
	epoch := uint64(0)
	for _, agents := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprint("agents=", agents), func(b *testing.B) {
			epoch++
			before, syncs := lastSequence(b, opened), countSyncs(opened)
			var left atomic.Int64
			left.Store(int64(b.N))
			var wg sync.WaitGroup
			for a := range agents {
				wg.Go(func() {
					for n := uint64(1); left.Add(-1) >= 0; n++ {
						publish(b, opened, frame(fmt.Sprint("node-", a), "r", epoch, n))
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "frames/s")
			if stored := lastSequence(b, opened) - before; stored != uint64(b.N) {
				b.Fatalf("%d of %d frames are stored", stored, b.N)
			}
			if opened.syncer != nil {
				b.ReportMetric(float64(b.N)/float64(syncs()), "frames/sync")
			}
		})
	}
}

// countSyncs gives how many syncs there were since.
func countSyncs(b *Bus) func() int64 {
	var n atomic.Int64
	if b.syncer != nil {
		b.syncer.syncFile = func(f *os.File) error { n.Add(1); return f.Sync() }
	}
	return n.Load
}

func lastSequence(b *testing.B, of *Bus) uint64 {
	b.Helper()
	info, err := of.stream.Info(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	return info.State.LastSeq
}
