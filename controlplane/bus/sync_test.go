package bus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
)

// disk stands between a bus and its disk: each sync waits to be let through.
type disk struct {
	syncs atomic.Int64
	gate  chan error // what a sync gives when it is let through; closed: all go
}

func slowDisk(b *Bus) *disk {
	d := &disk{gate: make(chan error)}
	b.syncer.syncFile = func(f *os.File) error {
		d.syncs.Add(1)
		if err := <-d.gate; err != nil {
			return err
		}
		return f.Sync()
	}
	return d
}

func (b *Bus) writtenSoFar() uint64 {
	b.syncer.mu.Lock()
	defer b.syncer.mu.Unlock()
	return b.syncer.written
}

func TestFramesOnTheirWayShareASync(t *testing.T) {
	b := openBus(t, testConfig(t.TempDir()))
	d := slowDisk(b)
	const agents = 50
	var acknowledged atomic.Int64
	var wg sync.WaitGroup
	send := func(a int) {
		wg.Go(func() {
			publish(t, b, frame(fmt.Sprint("node-", a), "r", 1, 1))
			acknowledged.Add(1)
		})
	}
	send(0)
	testkit.Eventually(t, "the first sync to begin", func() bool { return d.syncs.Load() == 1 })
	for a := range agents {
		send(a + 1)
	}
	testkit.Eventually(t, "all frames to be written", func() bool { return b.writtenSoFar() == agents+1 })
	if n := acknowledged.Load(); n != 0 {
		t.Errorf("%d frames are acknowledged before a sync has ended", n)
	}
	d.gate <- nil
	testkit.Eventually(t, "the second sync to begin", func() bool { return d.syncs.Load() == 2 })
	testkit.Eventually(t, "the first frame to be acknowledged", func() bool { return acknowledged.Load() == 1 })
	d.gate <- nil
	wg.Wait()
	if n := d.syncs.Load(); n > 3 { // a block may have begun
		t.Errorf("%d frames took %d syncs, want 2", agents+1, n)
	}
}

// TestNothingIsToldOfAFrameBeforeItsSync: neither its agent, in answer to the
// frame, its repeat or a new connection, nor who works on frames.
func TestNothingIsToldOfAFrameBeforeItsSync(t *testing.T) {
	b := openBus(t, testConfig(t.TempDir()))
	publish(t, b, frame("a", "r", 1, 1))
	d := slowDisk(b)
	ctx, cancel := context.WithCancel(t.Context())
	var consumed atomic.Uint64
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		err := b.Consume(ctx, 1, func(_ context.Context, batch []Delivery) error {
			consumed.Store(batch[len(batch)-1].Sequence)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	testkit.Eventually(t, "the first frame to be consumed", func() bool { return consumed.Load() == 1 })

	wg.Go(func() { // has its sync begun, or begins it
		if _, err := b.Publish(t.Context(), frame("b", "r", 1, 1)); err != nil {
			t.Error(err)
		}
	})
	testkit.Eventually(t, "a sync to begin", func() bool { return d.syncs.Load() == 1 })
	late, stopLate := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stopLate()
	for name, ask := range map[string]func() error{
		"another frame": func() error { _, err := b.Publish(late, frame("a", "r", 1, 2)); return err },
		"its repeat":    func() error { _, err := b.Publish(late, frame("a", "r", 1, 2)); return err },
		"a connection":  func() error { _, err := b.Last(late, "a"); return err },
	} {
		if err := ask(); !fault.Is(err, fault.Unavailable) {
			t.Errorf("%s: %v, want that the bus does not answer yet", name, err)
		}
	}
	if got := consumed.Load(); got != 1 {
		t.Errorf("frame %d was consumed before its sync", got)
	}
	close(d.gate)
	testkit.Eventually(t, "all frames to be consumed", func() bool { return consumed.Load() >= 2 })
	if last, err := b.Last(t.Context(), "b"); err != nil || last.Sequence != 1 {
		t.Errorf("the last frame is %v (%v)", last, err)
	}
}

func TestAfterAFailedSyncNothingIsAcknowledged(t *testing.T) {
	config := testConfig(t.TempDir())
	b := openBus(t, config)
	publish(t, b, frame("a", "r", 1, 1))
	works := b.syncer.syncFile
	b.syncer.syncFile = func(*os.File) error { return errors.New("no space is left") }
	if _, err := b.Publish(t.Context(), frame("a", "r", 1, 2)); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "no space") {
		t.Errorf("got %v, want what is wrong with the disk", err)
	}
	// What the operating system has of the file is not known now, whatever it says.
	b.syncer.syncFile = works
	for _, sequence := range []uint64{2, 3} {
		if _, err := b.Publish(t.Context(), frame("a", "r", 1, sequence)); !fault.Is(err, fault.Unavailable) {
			t.Errorf("frame %d: %v, want it refused", sequence, err)
		}
	}
	b.Close()
	b = openBus(t, config)
	for _, sequence := range []uint64{2, 3} {
		publish(t, b, frame("a", "r", 1, sequence))
	}
	for i, d := range take(t, b, 1, 3) {
		if d.Position.Sequence != uint64(i+1) {
			t.Errorf("frame %d stands where %d is due", d.Position.Sequence, i+1)
		}
	}
}

// TestEachBlockIsSynced: that each frame is in a file that was synced after it
// came, while blocks are begun and discarded. It is what there is to know about
// where the embedded server keeps its messages.
func TestEachBlockIsSynced(t *testing.T) {
	config := testConfig(t.TempDir())
	config.MaxBytes = minStoreBytes
	b := openBus(t, config)
	synced := map[string]int64{} // bytes, by file
	b.syncer.syncFile = func(f *os.File) error {
		info, err := f.Stat()
		if err == nil {
			synced[f.Name()] = info.Size()
		}
		return err
	}
	filler := strings.Repeat("x", 1<<20)
	for i := range uint64(100) {
		m := frame("a", "r", 1, i+1)
		mark := fmt.Sprintf("<frame %d>", i+1)
		m.Batch.Events[0].EventId = filler + mark
		publish(t, b, m)
		at := b.syncer.path(b.syncer.block)
		data, err := os.ReadFile(at)
		if err != nil {
			t.Fatal(err)
		}
		if end := bytes.Index(data, []byte(mark)) + len(mark); end < len(mark) || int64(end) > synced[at] {
			t.Fatalf("frame %d ends at byte %d of %s, of which %d bytes are synced", i+1, end, filepath.Base(at), synced[at])
		}
	}
	if b.syncer.block < 8 {
		t.Errorf("100 MiB went into %d blocks; the test wants more", b.syncer.block)
	}
}

// TestASyncerFollowsBlocks has the block that it knows be gone, with the next.
func TestASyncerFollowsBlocks(t *testing.T) {
	dir := t.TempDir()
	s := &syncer{dir: dir, syncFile: func(*os.File) error { return nil }}
	if err := s.sync(); err == nil {
		t.Error("no block is there, and nothing is wrong")
	}
	for _, step := range []struct {
		make, remove []int
		want         int
	}{
		{make: []int{3}, want: 3},
		{make: []int{4, 5}, want: 5},
		{make: []int{6, 7, 8}, remove: []int{3, 4, 5, 6}, want: 8},
		{want: 8},
		{make: []int{1}, remove: []int{7, 8}, want: 1},
	} {
		for _, n := range step.make {
			if err := os.WriteFile(s.path(n), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, n := range step.remove {
			if err := os.Remove(s.path(n)); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.sync(); err != nil || s.block != step.want {
			t.Errorf("after %+v the last block is %d (%v)", step, s.block, err)
		}
	}
	s.close()
}

// TestWhatIsNoFailedSyncPasses: a block that cannot be opened fails who waits for
// it, and no one who comes when it can be. Its directory is synced then.
func TestWhatIsNoFailedSyncPasses(t *testing.T) {
	seconds := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "test"})
	s := &syncer{dir: t.TempDir(), syncFile: func(*os.File) error { return nil }, seconds: seconds}
	defer s.close()
	put := func(block int) {
		if err := os.WriteFile(s.path(block), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(1)
	if err := s.wait(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	put(2)
	if err := os.Symlink(s.path(3), s.path(3)); err != nil { // a link to itself cannot be opened
		t.Fatal(err)
	}
	if err := s.wait(t.Context(), 2); !fault.Is(err, fault.Unavailable) {
		t.Errorf("with a block that cannot be opened: %v", err)
	}
	if err := s.err(); err != nil {
		t.Errorf("the bus is broken: %v", err)
	}
	if err := os.Remove(s.path(3)); err != nil {
		t.Fatal(err)
	}
	if err := s.wait(t.Context(), 2); err != nil || s.block != 2 || s.dirDue {
		t.Errorf("afterwards: %v, block %d, the directory is to be synced: %v", err, s.block, s.dirDue)
	}
	s.syncFile = func(*os.File) error { return errors.New("no space is left") }
	if err := s.wait(t.Context(), 3); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a sync that fails: %v", err)
	}
	s.syncFile = func(*os.File) error { return nil }
	if err := s.wait(t.Context(), 3); !fault.Is(err, fault.Unavailable) {
		t.Errorf("after a sync that failed: %v", err)
	}
}
