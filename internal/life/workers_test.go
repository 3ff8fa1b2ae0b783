package life

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestWorkers has many callers work at once: each gets its own, an idle worker is
// taken again, and those that are not needed end.
func TestWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := NewWorkers()
		var most, now atomic.Int64
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				w.Do(func() {
					now.Add(1)
					time.Sleep(time.Second)
					most.Store(now.Load()) // all have begun, and none has ended
					time.Sleep(time.Second)
				})
			})
		}
		wg.Wait()
		if most.Load() < 20 {
			t.Errorf("at most %d worked at once, want 20: a caller waited for another", most.Load())
		}
		ran := false
		w.Do(func() { ran = true })
		if !ran {
			t.Error("Do returned before its function did")
		}
		time.Sleep(3 * idleWorker)
		if err := w.Stop(); err != nil {
			t.Errorf("stop workers: %v", err)
		}
		w.Do(func() { ran = false })
		if ran {
			t.Error("after Stop nothing is done")
		}
	})
}

func TestWorkersPanic(t *testing.T) {
	w := NewWorkers()
	got := func() (got any) {
		defer func() { got = recover() }()
		w.Do(func() { panic("planted") })
		return nil
	}()
	if got != "planted" {
		t.Errorf("Do panics with %v, want what its function panicked with", got)
	}
	fine := false
	w.Do(func() { fine = true })
	if !fine {
		t.Error("after a panic nothing is done")
	}
	if err := w.Stop(); err != nil {
		t.Errorf("stop workers: %v", err)
	}
}
