package bench

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vigil-ml/vigil/internal/columns"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/metric"
)

// flushEvery is how many rounds of samples an agent sends together.
const flushEvery = 5

// fleetOptions say how large the fleet is and what it does.
type fleetOptions struct {
	address, metrics            string
	agents, gpus, perGPU        int
	interval, reports, duration time.Duration
	reconnect                   bool
	restart                     string // a command that restarts the control plane half-way; empty is none
	patience                    time.Duration
}

// fleetReport is what was measured.
type fleetReport struct {
	agents                 int
	joined                 time.Duration // until all had certificates
	connected, reconnected time.Duration // until all were
	again, restarted       bool
	events, samples        int64
	lost                   int // events that nobody acknowledged
	stored, repeated       float64
	p50, p99               time.Duration
	idle, loaded           float64 // bytes that the server has, without and with the agents
	idleLive, loadedLive   float64 // bytes that are in use for certain, as the server says
	idleInUse, loadedInUse float64 // bytes of heap and stacks of it; the rest is free, or not Go's
	scraped                bool
}

func (r fleetReport) write(w io.Writer) {
	row(w, "agents", "%d", r.agents)
	row(w, "all joined after", "%.1f s", r.joined.Seconds())
	row(w, "all connected after", "%.1f s", r.connected.Seconds())
	if r.again {
		row(w, "all connected again after", "%.1f s", r.reconnected.Seconds())
	}
	row(w, "events sent", "%d, not acknowledged %d", r.events, r.lost)
	if r.scraped && !r.restarted {
		row(w, "event frames at the server", "stored %.0f, repeated %.0f", r.stored, r.repeated)
	}
	if r.scraped {
		row(w, "server's resident memory", "%.0f MiB, %.1f KiB more for each agent than before", r.loaded/(1<<20), (r.loaded-r.idle)/1024/float64(r.agents))
		row(w, "of it, garbage left out", "%.0f MiB, %.1f KiB more for each agent than before", r.loadedLive/(1<<20), (r.loadedLive-r.idleLive)/1024/float64(r.agents))
		row(w, "heap and stacks in use", "%.0f MiB, %.1f KiB more for each agent than before", r.loadedInUse/(1<<20), (r.loadedInUse-r.idleInUse)/1024/float64(r.agents))
	}
	row(w, "samples sent", "%d", r.samples)
	row(w, "acknowledged after", "p50 %s, p99 %s", r.p50.Round(time.Millisecond), r.p99.Round(time.Millisecond))
}

// verdict is an error when an event was lost or stored twice.
func (r fleetReport) verdict() error {
	if r.lost > 0 {
		return fault.New(fault.Unavailable, "%d events were not acknowledged", r.lost)
	}
	if r.scraped && !r.restarted && r.stored != float64(r.events) {
		return fault.New(fault.Corrupt, "the server stored %.0f event frames of %d", r.stored, r.events)
	}
	return nil
}

// fleet is the agents while they run.
type fleet struct {
	fleetOptions
	group     *life.Group
	agents    []*agent
	breaks    chan struct{} // closed to break all connections once
	connected atomic.Int64  // connections that were opened
	events    atomic.Int64
	samples   atomic.Int64

	mu        sync.Mutex
	latencies []time.Duration
	failure   error
}

func (o fleetOptions) run(ctx context.Context, progress io.Writer) (fleetReport, error) {
	if o.agents < 1 || o.gpus < 0 || o.perGPU < 1 || o.perGPU > len(gpuMetrics()) || o.interval <= 0 {
		return fleetReport{}, fault.New(fault.Invalid, "bench fleet: want at least one agent, up to %d metrics, and an interval above 0", len(gpuMetrics()))
	}
	f := &fleet{fleetOptions: o, breaks: make(chan struct{}), group: life.NewGroup(ctx)}
	report := fleetReport{agents: o.agents, again: o.reconnect || o.restart != "", restarted: o.restart != "", scraped: o.metrics != ""}
	before, err := f.scrape(ctx)
	if err != nil {
		return report, err
	}
	if report.joined, err = f.join(ctx); err != nil {
		return report, err
	}
	_, _ = fmt.Fprintf(progress, "all %d joined after %.1f s\n", o.agents, report.joined.Seconds())
	began := time.Now()
	stop := make(chan struct{})
	for _, a := range f.agents {
		f.group.Go(a.name, func(ctx context.Context) error { return f.live(ctx, a, stop) })
	}
	defer f.group.Stop()
	if report.connected, err = f.all(ctx, int64(o.agents), began); err != nil {
		return report, err
	}
	_, _ = fmt.Fprintf(progress, "all %d connected after %.1f s\n", o.agents, report.connected.Seconds())
	life.Sleep(ctx, o.duration/2)
	if report.again {
		began = time.Now()
		if err := f.part(ctx); err != nil {
			return report, err
		}
		if report.reconnected, err = f.all(ctx, 2*int64(o.agents), began); err != nil {
			return report, err
		}
		_, _ = fmt.Fprintf(progress, "all connected again after %.1f s\n", report.reconnected.Seconds())
	}
	life.Sleep(ctx, o.duration/2)
	after, err := f.scrape(ctx)
	if err != nil {
		return report, err
	}
	report.idle, report.loaded = before["process_resident_memory_bytes"], after["process_resident_memory_bytes"]
	report.idleLive, report.loadedLive = before[metric.ControlMemoryLive.Name], after[metric.ControlMemoryLive.Name]
	report.idleInUse, report.loadedInUse = inUse(before), inUse(after)
	close(stop)
	report.lost = f.drain(ctx)
	if after, err = f.scrape(ctx); err != nil {
		return report, err
	}
	for result, into := range map[string]*float64{"stored": &report.stored, "repeated": &report.repeated} {
		name := `vigil_control_frames_total{class="events",result="` + result + `"}`
		*into = after[name] - before[name]
	}
	report.events, report.samples = f.events.Load(), f.samples.Load()
	f.mu.Lock()
	slices.Sort(f.latencies)
	report.p50, report.p99 = percentile(f.latencies, 0.5), percentile(f.latencies, 0.99)
	f.mu.Unlock()
	f.group.Stop()
	return report, f.group.Wait()
}

// joinsAtOnce is how many agents join at a time. That they do is no part of
// connecting: an agent joins once in its life.
const joinsAtOnce = 32

// join makes the agents and has them join.
func (f *fleet) join(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	group, waiting := life.NewGroup(ctx), make(chan *agent, f.fleetOptions.agents)
	for i := range f.fleetOptions.agents {
		var w *walk
		if f.gpus > 0 {
			w = newWalk(uint64(i), f.gpus, f.perGPU)
		}
		a := newAgent(fmt.Sprintf("fleet-%05d", i), w, f.took)
		f.agents = append(f.agents, a)
		waiting <- a
	}
	close(waiting)
	for range joinsAtOnce {
		group.Go("join", func(ctx context.Context) error {
			for a := range waiting {
				if err := a.join(ctx, f.address); err != nil {
					return fmt.Errorf("join %s: %w", a.name, err)
				}
			}
			return nil
		})
	}
	err := group.Wait()
	return time.Since(began), err
}

// part breaks all connections at once, itself or with the control plane.
func (f *fleet) part(ctx context.Context) error {
	if f.restart == "" {
		close(f.breaks)
		return nil
	}
	if text, err := exec.CommandContext(ctx, "sh", "-c", f.restart).CombinedOutput(); err != nil {
		return fmt.Errorf("restart the control plane: %w: %s", err, text)
	}
	return nil
}

func inUse(values map[string]float64) float64 {
	return values["go_memstats_heap_inuse_bytes"] + values["go_memstats_stack_inuse_bytes"]
}

func (f *fleet) scrape(ctx context.Context) (map[string]float64, error) {
	if f.metrics == "" {
		return nil, nil
	}
	return scraped(ctx, f.metrics)
}

func (f *fleet) took(d time.Duration) {
	f.mu.Lock()
	f.latencies = append(f.latencies, d)
	f.mu.Unlock()
}

// all waits until so many connections were opened.
func (f *fleet) all(ctx context.Context, want int64, began time.Time) (time.Duration, error) {
	for f.connected.Load() < want {
		if time.Since(began) > f.patience {
			f.mu.Lock()
			defer f.mu.Unlock()
			return 0, fault.New(fault.Deadline, "only %d of %d connections were opened within %s; the last error: %v", f.connected.Load(), want, f.patience, f.failure)
		}
		if !life.Sleep(ctx, 10*time.Millisecond) || f.group.Context().Err() != nil {
			return 0, fault.New(fault.Canceled, "the fleet was stopped")
		}
	}
	return time.Since(began), nil
}

// drain waits until every event is acknowledged and gives how many are not.
func (f *fleet) drain(ctx context.Context) (lost int) {
	until := time.Now().Add(f.patience)
	for {
		lost = 0
		for _, a := range f.agents {
			events, _ := a.unacked()
			lost += events
		}
		if lost == 0 || time.Now().After(until) || !life.Sleep(ctx, 50*time.Millisecond) {
			return lost
		}
	}
}

// live keeps one agent connected and has it report until stop is closed; then it
// only keeps the connection.
func (f *fleet) live(ctx context.Context, a *agent, stop <-chan struct{}) error {
	wait := 100 * time.Millisecond
	breaks := f.breaks
	for ctx.Err() == nil {
		l, err := a.connect(ctx, f.group, f.address)
		if err != nil {
			f.mu.Lock()
			f.failure = err
			f.mu.Unlock()
			life.Sleep(ctx, wait)
			wait = min(2*wait, 5*time.Second)
			continue
		}
		wait = 100 * time.Millisecond
		f.connected.Add(1)
		if f.work(ctx, a, l, stop, breaks) {
			breaks = nil // broken once
		}
		l.close()
	}
	return nil
}

// work reports on one connection until it ends; true when it was broken on
// purpose.
func (f *fleet) work(ctx context.Context, a *agent, l *link, stop, breaks <-chan struct{}) bool {
	beats := time.NewTicker(l.heartbeat)
	defer beats.Stop()
	rounds := time.NewTicker(f.interval)
	defer rounds.Stop()
	due := time.Now().Add(f.first(a))
	var encoder columns.Encoder
	var points []columns.Point
	for n := 1; ; {
		var err error
		select {
		case <-ctx.Done():
			return false
		case <-l.ended:
			return false
		case <-breaks:
			return true
		case <-stop:
			stop, due = nil, time.Time{}
			rounds.Stop()
		case <-beats.C:
			err = l.beat()
		case now := <-rounds.C:
			if f.reports > 0 && !due.IsZero() && !now.Before(due) {
				due = now.Add(f.reports)
				f.events.Add(1)
				err = l.frame(a.report())
			}
			if a.walk == nil || err != nil {
				break
			}
			points = a.walk.next(points, now.UnixMilli())
			if n++; n%flushEvery == 0 {
				f.samples.Add(int64(len(points)))
				err = l.frame(a.block(&encoder, points))
				points = points[:0]
			}
		}
		if err != nil {
			return false
		}
	}
}

// first spreads the agents' first reports.
func (f *fleet) first(a *agent) time.Duration {
	if f.reports <= 0 {
		return 0
	}
	return time.Duration(len(a.name)+int(a.walkSeed())) * time.Millisecond % f.reports
}

// walkSeed is a number of the agent's own, from its name.
func (a *agent) walkSeed() (n uint32) {
	for _, c := range a.name {
		n = n*31 + uint32(c)
	}
	return n
}
