// Package life starts and stops everything that runs. It is the only place
// with a go statement: a panic becomes an error that names its task, and no
// task outlives the function that started it.
//
// A part that runs has a method Run(ctx) error that returns when ctx ends. Its
// owner starts it with [Group.Go]; inside it, [All] runs several things
// together.
package life

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// Task is a named piece of work that ends when its context does.
type Task struct {
	Name string
	Run  func(context.Context) error
}

// Group is tasks that live and end together: the first that fails cancels the
// rest. Make one with [NewGroup]. All methods are safe for concurrent use.
type Group struct {
	ctx    context.Context //nolint:containedctx // a group is its context's owner
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	first  error
}

// NewGroup makes a group whose tasks end when ctx does.
func NewGroup(ctx context.Context) *Group {
	ctx, cancel := context.WithCancelCause(ctx)
	return &Group{ctx: ctx, cancel: cancel}
}

// Go starts a task. A task that returns nil leaves the others alone; one that
// fails or panics cancels them. An error after the group was stopped counts
// only when it is not the cancellation itself.
func (g *Group) Go(name string, run func(context.Context) error) {
	g.wg.Add(1)
	go func() {
		defer g.wg.Done()
		err := guard(g.ctx, name, run)
		if err == nil || (g.ctx.Err() != nil && errors.Is(err, context.Canceled)) {
			return
		}
		g.mu.Lock()
		if g.first == nil {
			g.first = err
		}
		g.mu.Unlock()
		g.cancel(err)
	}()
}

// Context ends when the group is stopped or a task fails.
func (g *Group) Context() context.Context { return g.ctx }

// Stop asks every task to end; it does not wait.
func (g *Group) Stop() { g.cancel(context.Canceled) }

// Wait waits until every task has ended and gives the first failure.
func (g *Group) Wait() error {
	g.wg.Wait()
	g.cancel(context.Canceled)
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.first
}

// All runs tasks together and returns when every one has ended. The first to
// return, with an error or without, ends the others; its error is returned.
func All(ctx context.Context, tasks ...Task) error {
	g := NewGroup(ctx)
	for _, task := range tasks {
		g.Go(task.Name, func(ctx context.Context) error {
			defer g.Stop()
			return task.Run(ctx)
		})
	}
	return g.Wait()
}

// AtEnd is a task that has nothing to do but to close something when it ends.
func AtEnd(end func() error) func(context.Context) error {
	return func(ctx context.Context) error {
		<-ctx.Done()
		return end()
	}
}

// Sleep waits; it gives false when ctx ended first.
func Sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// beat is how far apart the instants are that InStep ends waits at: shortBeat
// for waits below longBeat, and longBeat for others.
const (
	shortBeat = time.Second
	longBeat  = 5 * time.Second
)

// started is where the beats are counted from: every program has its own, so
// that those of a cluster are not in step with each other.
var started = time.Now()

// InStep waits about d, as Sleep does, until a whole second of this program's
// life, or a fifth one when d is 5 s or more, so that what is done now and then
// is done together: to wake up costs an idle program more than most of what it
// wakes up for. The wait is at most half a beat longer or shorter, and never less
// than half of d; below 0.9 s it is d.
func InStep(ctx context.Context, d time.Duration) bool { return Sleep(ctx, Step(d)) }

// Step gives how long InStep would wait now.
func Step(d time.Duration) time.Duration { return inStep(time.Since(started), d) }

// inStep gives how long to wait at a time since the start.
func inStep(now, d time.Duration) time.Duration {
	beat := shortBeat
	if d >= longBeat {
		beat = longBeat
	}
	if d < beat*9/10 {
		return d
	}
	wait := (now + d).Round(beat) - now
	if wait < d/2 {
		wait += beat
	}
	return wait
}

// Run runs a program until ctx ends or a part fails. Setup starts the parts:
// services, which use foundations, are stopped and waited for first, then the
// foundations. When setup itself fails, what it had started is stopped.
func Run(ctx context.Context, setup func(ctx context.Context, services, foundations *Group) error) error {
	base := context.WithoutCancel(ctx)
	foundations, services := NewGroup(base), NewGroup(base)
	stopBelow := context.AfterFunc(foundations.Context(), services.Stop)
	defer stopBelow()
	stopOutside := context.AfterFunc(ctx, services.Stop)
	defer stopOutside()

	setupErr := setup(services.Context(), services, foundations)
	if setupErr != nil {
		services.Stop()
	} else {
		<-services.Context().Done()
	}
	serviceErr := services.Wait()
	foundations.Stop()
	return errors.Join(setupErr, serviceErr, foundations.Wait())
}

// guard runs a task and turns a panic into an error with its stack.
func guard(ctx context.Context, name string, run func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("run %s: panic: %v\n%s", name, p, debug.Stack())
		}
	}()
	if err := run(ctx); err != nil {
		return fmt.Errorf("run %s: %w", name, err)
	}
	return nil
}
