package collect

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/metric"
)

const (
	// grace is what a call may take beyond its timeout before it counts as
	// stuck: time to see that its context ended.
	grace = 100 * time.Millisecond
	// unsupportedInterval is how often a collector with nothing to measure is
	// asked again: a driver may be loaded later.
	unsupportedInterval = time.Minute
	// steadyInterval is how often samples are recorded that do not change: every
	// ten seconds, give or take.
	steadyInterval = 9 * time.Second
	// promptGap is how far apart calls of a [Prompt] collector are at least, so
	// that a flood does not become a flood of calls.
	promptGap = time.Second
)

// Source is a collector and when to call it.
type Source struct {
	Name      string
	Collector Collector
	// Interval is the time from one call to the next, on average; > 0.
	Interval time.Duration
	// Timeout bounds a call; 0 means the interval.
	Timeout time.Duration
}

// RunnerDeps is what a runner works with.
type RunnerDeps struct {
	// Record takes the samples of one call; it is called from several
	// goroutines at once. agent/journal has it.
	Record  func(ctx context.Context, samples []metric.Sample) error
	Log     *slog.Logger
	Metrics prometheus.Registerer
	Clock   func() time.Time
}

// Runner calls collectors: each at its own interval, the first time at once and
// the second after a part of the interval, by chance, so that the nodes of a
// cluster that was started together do not measure in step. On one node later
// calls fall on whole seconds of the agent's life, or every fifth ([life.InStep]): it
// wakes up once for several. None waits for another. A call that does not return in its time makes its
// collector stuck: what it has emitted is taken, and it is not called again
// until that call returns.
type Runner struct {
	deps    RunnerDeps
	up      *prometheus.GaugeVec
	seconds *prometheus.HistogramVec
	changed chan struct{} // holds a token when there are other sources

	mu      sync.Mutex
	sources []*source
}

// source is a Source and how it was the last time.
type source struct {
	Source
	complaint string    // what was logged last; the loop's own
	recorded  time.Time // when samples were last recorded; the loop's own

	mu      sync.Mutex
	status  Status
	samples []metric.Sample
	taken   time.Time
}

// NewRunner makes a runner. It fails with [fault.Invalid] when two sources
// have one name or an interval is not above 0.
func NewRunner(sources []Source, deps RunnerDeps) (*Runner, error) {
	r := &Runner{
		deps:    deps,
		up:      metric.NewGauge(deps.Metrics, metric.AgentCollectorUp),
		seconds: metric.NewLatency(deps.Metrics, metric.AgentCollectSeconds),
		changed: make(chan struct{}, 1),
	}
	return r, r.Replace(sources)
}

// Replace puts other sources in the place of those that there are, which are
// closed; a call that is stuck is left behind. It fails as NewRunner does, and
// then changes nothing. It is safe for concurrent use.
func (r *Runner) Replace(sources []Source) error {
	names := map[string]bool{}
	var all []*source
	for _, s := range sources {
		if names[s.Name] {
			return fault.New(fault.Invalid, "start collectors: %q is there twice", s.Name)
		}
		names[s.Name] = true
		if s.Interval <= 0 || s.Timeout < 0 {
			return fault.New(fault.Invalid,
				"start collectors: %s has interval %v and timeout %v; want more than 0", s.Name, s.Interval, s.Timeout)
		}
		if s.Timeout == 0 {
			s.Timeout = s.Interval
		}
		all = append(all, &source{Source: s})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sources = all
	r.up.Reset()
	for _, s := range all {
		r.set(s, Unknown)
	}
	select {
	case r.changed <- struct{}{}:
	default: // Run has not come round to the last change
	}
	return nil
}

// current gives the sources that there are.
func (r *Runner) current() []*source {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sources
}

// Run calls the collectors until ctx ends, closes them and gives nil. A call
// that is stuck then is left behind: nothing can end it but the process.
func (r *Runner) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		select {
		case <-r.changed: // it is looked at now
		default:
		}
		tasks := []life.Task{{Name: "collectors", Run: func(ctx context.Context) error {
			select {
			case <-ctx.Done():
			case <-r.changed:
			}
			return nil
		}}}
		for _, s := range r.current() {
			tasks = append(tasks, life.Task{Name: "collect " + s.Name, Run: func(ctx context.Context) error {
				r.loop(ctx, s)
				return nil
			}})
		}
		if err := life.All(ctx, tasks...); err != nil {
			return err
		}
	}
	return nil
}

// Statuses gives the status of each collector by name. It is safe for
// concurrent use.
func (r *Runner) Statuses() map[string]Status {
	sources := r.current()
	all := make(map[string]Status, len(sources))
	for _, s := range sources {
		s.mu.Lock()
		all[s.Name] = s.status
		s.mu.Unlock()
	}
	return all
}

func (r *Runner) loop(ctx context.Context, s *source) {
	for length := phase; ; length = inStep {
		began := time.Now()
		call := r.call(ctx, s)
		if call.stuck {
			select {
			case <-call.done:
			case <-ctx.Done():
				r.deps.Log.Warn("collector is left behind in a call that does not return", "collector", s.Name)
				return
			}
		}
		interval := s.Interval
		if call.status == Unsupported {
			interval = max(interval, unsupportedInterval)
		}
		if !pause(ctx, s.Collector, call.status, began, length(interval)) {
			if closer, ok := s.Collector.(io.Closer); ok {
				if err := closer.Close(); err != nil {
					r.deps.Log.Warn("close collector", "collector", s.Name, "err", err)
				}
			}
			return
		}
	}
}

// call makes one call and takes what it gives.
func (r *Runner) call(ctx context.Context, s *source) *call {
	began := r.deps.Clock()
	c := begin(ctx, s, began)
	defer c.cancel()
	c.wait()
	samples := c.take()
	if ctx.Err() != nil && len(samples) == 0 {
		return c
	}
	s.mu.Lock()
	s.samples, s.taken = samples, began
	s.mu.Unlock()
	r.set(s, c.status)
	r.seconds.WithLabelValues(s.Name).Observe(r.deps.Clock().Sub(began).Seconds())
	err := c.err
	if len(samples) > 0 && s.news(began, c.stuck) {
		s.recorded = began
		// What was measured is recorded even when the agent is about to end.
		if failed := r.deps.Record(context.WithoutCancel(ctx), samples); failed != nil {
			err = errors.Join(err, failed)
		}
	}
	r.complain(s, c.status, err)
	return c
}

// news tells whether the samples of the last call are to be recorded.
func (s *source) news(now time.Time, stuck bool) bool {
	steady, ok := s.Collector.(Steady)
	if !ok || stuck {
		return true // a call that has not returned is asked nothing
	}
	return !steady.Steady() || now.Sub(s.recorded) >= steadyInterval || now.Before(s.recorded)
}

func (r *Runner) set(s *source, status Status) {
	s.mu.Lock()
	same := s.status == status
	s.status = status
	s.mu.Unlock()
	if same {
		return
	}
	for _, other := range statuses() {
		value := 0.0
		if other == status {
			value = 1
		}
		r.up.WithLabelValues(s.Name, string(other)).Set(value)
	}
}

// complain logs what is new, not what stays. The first line tells: behind it
// a panic has addresses, which are never the same.
func (r *Runner) complain(s *source, status Status, err error) {
	complaint, _, _ := strings.Cut(fmt.Sprint(status, err), "\n")
	if complaint == s.complaint || (s.complaint == "" && status == Ok && err == nil) {
		return
	}
	s.complaint = complaint
	level := slog.LevelInfo
	if err != nil && status != Unsupported {
		level = slog.LevelWarn
	}
	attrs := []any{"collector", s.Name, "status", status}
	if err != nil {
		attrs = append(attrs, "err", err)
	}
	r.deps.Log.Log(context.Background(), level, "collector", attrs...)
}

// pause waits until the next call, at most a time; it gives false when ctx ended.
func pause(ctx context.Context, c Collector, status Status, began time.Time, most time.Duration) bool {
	prompt, ok := c.(Prompt)
	if !ok || status != Ok {
		return life.Sleep(ctx, most)
	}
	waiting, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	prompt.Await(waiting)
	if gap := promptGap - time.Since(began); waiting.Err() == nil && gap > 0 {
		return life.Sleep(ctx, gap)
	}
	return ctx.Err() == nil
}

// inStep is every wait but the first.
func inStep(d time.Duration) time.Duration { return life.Step(spread(d)) }

// phase is the first wait: between half an interval and a whole one, since a
// rate over less than that would be noise.
func phase(d time.Duration) time.Duration { return d/2 + rand.N(max(d/2, 1)) }

// spread makes a wait up to a tenth longer or shorter, so that nodes do not
// measure in step.
func spread(d time.Duration) time.Duration {
	return d - d/10 + rand.N(max(d/5, 1))
}
