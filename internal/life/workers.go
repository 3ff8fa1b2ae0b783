package life

import (
	"context"
	"sync"
	"time"
)

// idleWorker is between two looks of a worker at whether it is needed.
const idleWorker = 2 * time.Second

// Workers do what goes deep in the place of goroutines that are many and wait
// nearly always: what a goroutine's stack once grew to it keeps for long, and a
// few grow instead of all. Make them with [NewWorkers]. They are safe for
// concurrent use.
type Workers struct {
	group *Group
	idle  chan *work // taken by who waits for more
	spare sync.Pool  // of *work

	mu      sync.Mutex
	stopped bool
}

// work is one call of Do.
type work struct {
	do       func()
	panicked any
	done     chan struct{} // has room for one
}

// NewWorkers makes workers. There are none until one is needed.
func NewWorkers() *Workers {
	w := &Workers{group: NewGroup(context.Background()), idle: make(chan *work)}
	w.spare.New = func() any { return &work{done: make(chan struct{}, 1)} }
	return w
}

// Do has a worker call a function, and waits. It panics when that does. After
// [Workers.Stop] the caller calls it itself.
func (w *Workers) Do(do func()) {
	one := w.spare.Get().(*work)
	one.do = do
	if !w.hand(one) {
		do()
		return
	}
	<-one.done
	panicked := one.panicked
	one.do, one.panicked = nil, nil
	w.spare.Put(one)
	if panicked != nil {
		panic(panicked)
	}
}

// Go has a worker call a function and does not wait. The function must not panic.
// It gives false after [Workers.Stop], and then it is not called.
func (w *Workers) Go(do func()) bool {
	return w.hand(&work{do: do})
}

// hand gives work to a worker; false when there are to be none anymore.
func (w *Workers) hand(one *work) bool {
	select {
	case w.idle <- one:
		return true
	default:
		return w.start(one)
	}
}

// start makes one more worker; false when there are to be none anymore.
func (w *Workers) start(first *work) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return false
	}
	w.group.Go("worker", func(ctx context.Context) error { w.work(ctx, first); return nil })
	return true
}

// Stop ends the workers, once they have done what they do, and waits for them.
func (w *Workers) Stop() error {
	w.mu.Lock()
	w.stopped = true
	w.mu.Unlock()
	w.group.Stop()
	return w.group.Wait()
}

func (w *Workers) work(ctx context.Context, next *work) {
	looks := time.NewTicker(idleWorker)
	defer looks.Stop()
	for used := true; ; {
		if next != nil {
			next.run()
			next, used = nil, true
		}
		select {
		case next = <-w.idle:
		case <-looks.C:
			if !used {
				return
			}
			used = false
		case <-ctx.Done():
			return
		}
	}
}

func (one *work) run() {
	if one.done == nil { // nobody waits
		one.do()
		return
	}
	defer func() { one.panicked = recover(); one.done <- struct{}{} }()
	one.do()
}
