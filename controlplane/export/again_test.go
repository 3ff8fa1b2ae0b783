package export_test

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vigil-ml/vigil/controlplane/export"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/testkit"
)

// closing is an exporter that cannot be used once it was closed.
type closing struct {
	*stub
	closed atomic.Bool
}

func (c *closing) Close() error { c.closed.Store(true); return nil }

// TestARunnerRunsAgain holds that a replica which gives the exporters away, and has
// them again, exports on.
func TestARunnerRunsAgain(t *testing.T) {
	s, err := store.Open(t.Context(), store.Config{Path: filepath.Join(t.TempDir(), "vigil.db")}, store.Deps{Log: testkit.Logger(t), Exports: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	e := &closing{stub: newStub()}
	frames := batches{{1, 2}}
	r := export.NewRunner(export.Limits{MaxAge: time.Hour, DeadBytes: 1 << 20, Streams: map[string]bool{export.StreamEvents: true}}, export.RunnerDeps{
		Name: "a", Kind: "stub", Exporter: e, Bus: &frames, Store: s, Dir: t.TempDir(), Trouble: &trouble{},
		Metrics: export.NewMetrics(prometheus.NewRegistry()), Log: testkit.Logger(t), Clock: time.Now,
	})
	for _, want := range []int{2, 5} {
		group := life.NewGroup(context.WithoutCancel(t.Context()))
		group.Go("exporter", r.Run)
		testkit.Eventually(t, "documents", func() bool { return e.count() == want })
		group.Stop()
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		if e.closed.Load() {
			t.Fatal("the exporter was closed with the run")
		}
		frames = append(frames, []uint64{3, 4, 5})
	}
}
