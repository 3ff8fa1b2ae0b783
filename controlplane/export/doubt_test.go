package export_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/controlplane/export"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/testkit"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// batches is a bus that hands over frames as it was told to.
type batches [][]uint64

func (b batches) Consume(ctx context.Context, from uint64, handle func(context.Context, []bus.Delivery) error) error {
	for _, batch := range b {
		var frames []bus.Delivery
		for _, sequence := range batch {
			if sequence >= from {
				frames = append(frames, bus.Delivery{Sequence: sequence, Message: bus.Message{Node: "n", Received: time.Now(),
					Batch: &agentv1.EventBatch{RunId: "r", Events: []*commonv1.Event{{EventId: fmt.Sprint(sequence), RunId: "r", Body: &commonv1.Event_Tick{}}}}}})
			}
		}
		if len(frames) > 0 {
			if err := handle(ctx, frames); err != nil {
				return err
			}
		}
	}
	<-ctx.Done()
	return nil
}

// doubter notes which documents it was told that it may have.
type doubter struct {
	mu    sync.Mutex
	cut   bool // what it is sent it takes, and says that it did not
	tries int
	sure  map[string]bool
}

func (d *doubter) Streams() []string { return export.Streams() }
func (d *doubter) Close() error      { return nil }

func (d *doubter) Export(_ context.Context, documents []export.Document) ([]export.Verdict, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tries++
	if d.cut {
		return nil, errors.New("the connection broke")
	}
	for _, document := range documents {
		d.sure[document.ID] = !document.Uncertain
	}
	return make([]export.Verdict, len(documents)), nil
}

func (d *doubter) seen() (tries, documents int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.tries, len(d.sure)
}

// TestWhatABatchMayHaveBroughtIsDoubted holds that after a restart all that the
// last batch held counts as perhaps there already, also when it comes in smaller
// batches now, and that what was certainly never sent does not.
func TestWhatABatchMayHaveBroughtIsDoubted(t *testing.T) {
	s, err := store.Open(t.Context(), store.Config{Path: filepath.Join(t.TempDir(), "vigil.db")}, store.Deps{Log: testkit.Logger(t), Exports: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	run := func(d *doubter, from batches, holds func() bool) {
		t.Helper()
		r := export.NewRunner(export.Limits{MaxAge: time.Hour, DeadBytes: 1 << 20, Streams: map[string]bool{export.StreamEvents: true}}, export.RunnerDeps{
			Name: "search", Kind: "stub", Exporter: d, Bus: from, Store: s, Dir: t.TempDir(), Trouble: &trouble{},
			Metrics: export.NewMetrics(prometheus.NewRegistry()), Log: testkit.Logger(t), Clock: time.Now,
		})
		group := life.NewGroup(context.WithoutCancel(t.Context()))
		group.Go("exporter", r.Run)
		testkit.Eventually(t, "the exporter", holds)
		group.Stop()
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	broken := &doubter{cut: true, sure: map[string]bool{}}
	run(broken, batches{{1, 2, 3, 4, 5}}, func() bool { tries, _ := broken.seen(); return tries > 0 })
	whole := &doubter{sure: map[string]bool{}}
	run(whole, batches{{1}, {2}, {3, 4}, {5}, {600}, {601}}, func() bool { _, n := whole.seen(); return n == 7 })
	for _, id := range []string{"1", "2", "3", "4", "5"} {
		if whole.sure[id] {
			t.Errorf("event %s was sent as if it had never been", id)
		}
	}
	if !whole.sure["601"] {
		t.Error("event 601, which was never sent, is doubted")
	}
}
