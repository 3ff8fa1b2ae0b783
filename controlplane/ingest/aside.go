package ingest

import (
	"context"
	"sync"
	"time"

	"github.com/vigil-ml/vigil/internal/life"
)

// idleWorker is how long a worker waits for more to do before it ends.
const idleWorker = 2 * time.Second

// workers do what goes deep, SQL, the bus and the TSDB, in place of the sessions'
// goroutines, and are few. There is a session for each of ten thousand agents,
// which waits nearly always, and what its stack once grew to it keeps for long.
type workers struct {
	group *life.Group
	idle  chan func() // taken by who waits for more
}

func newWorkers() *workers {
	return &workers{group: life.NewGroup(context.Background()), idle: make(chan func())}
}

// do has a worker call a function, and waits. It panics when that does.
func (w *workers) do(work func()) {
	var done sync.WaitGroup
	var panicked any
	done.Add(1)
	task := func() {
		defer func() { panicked = recover(); done.Done() }()
		work()
	}
	select {
	case w.idle <- task:
	default:
		w.group.Go("work for agents", func(ctx context.Context) error { w.work(ctx, task); return nil })
	}
	done.Wait()
	if panicked != nil {
		panic(panicked)
	}
}

// stop ends the workers and waits for them. Nothing is done afterwards.
func (w *workers) stop() error {
	w.group.Stop()
	return w.group.Wait()
}

func (w *workers) work(ctx context.Context, task func()) {
	timer := time.NewTimer(idleWorker)
	defer timer.Stop()
	for {
		task()
		timer.Reset(idleWorker)
		select {
		case task = <-w.idle:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}
