package bench

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/vigil-ml/vigil/internal/columns"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
)

// ingestOptions say what is sent, and where to.
type ingestOptions struct {
	name, address, remoteWrite string
	pid                        int
	hosts, gpus, perGPU        int
	steps, together            int
	batch, streams             int

	mu        sync.Mutex
	latencies []time.Duration
}

// ingestReport is what was measured.
type ingestReport struct {
	name      string
	series    int
	samples   int
	wall, cpu time.Duration
	resident  int64
	peak      int64
	p50, p99  time.Duration
	measured  bool // cpu and resident

	connected, connecting time.Duration // until all hosts were, by the clock and of the server's CPU; not in wall and cpu
}

func (r ingestReport) write(w io.Writer) {
	_, _ = fmt.Fprintf(w, "%-18s %9d series %11d samples  wall %7.1fs %10.0f/s", r.name, r.series, r.samples, r.wall.Seconds(), float64(r.samples)/r.wall.Seconds())
	if r.measured {
		_, _ = fmt.Fprintf(w, "  cpu %7.1fs %10.0f/cpu-s  rss %4d MiB (peak %d)", r.cpu.Seconds(), float64(r.samples)/r.cpu.Seconds(), r.resident>>20, r.peak>>20)
	}
	_, _ = fmt.Fprintf(w, "  ack p50 %s p99 %s\n", r.p50.Round(100*time.Microsecond), r.p99.Round(100*time.Microsecond))
	if r.connected > 0 {
		_, _ = fmt.Fprintf(w, "%-18s before that all hosts joined and connected in %.1fs, for %.1fs of CPU\n", "", r.connected.Seconds(), r.connecting.Seconds())
	}
}

func (o *ingestOptions) run(ctx context.Context) (ingestReport, error) {
	if o.perGPU < 1 || o.perGPU > len(gpuMetrics()) || o.hosts < 1 || o.gpus < 1 || o.steps < o.together || o.together < 1 || o.streams < 1 {
		return ingestReport{}, fault.New(fault.Invalid, "bench ingest: want at least one host, GPU, metric (at most %d) and stream, and more steps than are sent together", len(gpuMetrics()))
	}
	first, err := usageOf(o.pid)
	if err != nil {
		return ingestReport{}, err
	}
	began, before := time.Now(), first
	var connected time.Duration
	if o.remoteWrite != "" {
		err = o.writeRemote(ctx)
	} else {
		err = o.sendFrames(ctx, func() (err error) {
			connected, began = time.Since(began), time.Now()
			before, err = usageOf(o.pid)
			return err
		})
	}
	if err != nil {
		return ingestReport{}, err
	}
	wall := time.Since(began)
	after, err := usageOf(o.pid)
	if err != nil {
		return ingestReport{}, err
	}
	slices.Sort(o.latencies)
	series := o.hosts * o.gpus * o.perGPU
	return ingestReport{
		name: o.name, series: series, samples: series * (o.steps / o.together * o.together), wall: wall,
		cpu: after.cpu - before.cpu, resident: after.resident, peak: after.peak, measured: o.pid != 0,
		connected: connected, connecting: before.cpu - first.cpu,
		p50: percentile(o.latencies, 0.5), p99: percentile(o.latencies, 0.99),
	}, nil
}

func (o *ingestOptions) took(d time.Duration) {
	o.mu.Lock()
	o.latencies = append(o.latencies, d)
	o.mu.Unlock()
}

// host is the name of one.
func host(i int) string { return fmt.Sprintf("bench-%05d", i) }

// sendFrames sends by the agents' protocol, each host on a connection of its
// own. All hosts go on together, step by step, once connected has been told that
// they are.
func (o *ingestOptions) sendFrames(ctx context.Context, connected func() error) error {
	group := life.NewGroup(ctx)
	agents := make([]*agent, o.hosts)
	links := make([]*link, o.hosts)
	for i := range agents {
		agents[i] = newAgent(host(i), newWalk(uint64(i), o.gpus, o.perGPU), o.took)
		var err error
		if links[i], err = agents[i].connect(ctx, group, o.address); err != nil {
			return fmt.Errorf("connect %s: %w", agents[i].name, err)
		}
		defer links[i].close()
	}
	if err := connected(); err != nil {
		return err
	}
	start := time.Now().Add(-time.Duration(o.steps) * time.Second).UnixMilli()
	var encoder columns.Encoder
	var points []columns.Point
	for step := 0; step+o.together <= o.steps; step += o.together {
		for i, a := range agents {
			points = points[:0]
			for k := range o.together {
				points = a.walk.next(points, start+int64(step+k)*1000)
			}
			if err := links[i].frame(a.block(&encoder, points)); err != nil {
				return fmt.Errorf("send to the control plane: %w", err)
			}
			if err := a.settle(ctx, o.streams, links[i]); err != nil {
				return err
			}
		}
	}
	for i, a := range agents {
		if err := a.settle(ctx, 0, links[i]); err != nil {
			return err
		}
	}
	return nil
}

// settle waits until at most so many frames of samples wait.
func (a *agent) settle(ctx context.Context, most int, l *link) error {
	for {
		if _, waiting := a.unacked(); waiting <= most {
			return nil
		}
		select {
		case <-a.acked:
		case <-l.ended:
			return fault.New(fault.Unavailable, "the control plane ended the stream of %s", a.name)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
