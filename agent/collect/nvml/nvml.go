package nvml

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/agent/collect/nvml/probe"
	"github.com/vigil-ml/vigil/agent/collect/nvml/scenario"
	"github.com/vigil-ml/vigil/agent/collect/nvml/wire"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/xid"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

const (
	// margin is how much sooner than its time a collection returns, so that it is
	// this collector that says what is wrong and not the runner.
	margin = 50 * time.Millisecond
	// slowPart is the part of HangAfter after which the helper says where it is.
	slowPart = 2
	// A helper that died is started again after firstPause, each time later up to
	// lastPause; a GPU that hung is asked again after the same times.
	firstPause = 5 * time.Second
	lastPause  = 10 * time.Minute
)

// collector asks a helper. It is called by one goroutine at a time.
type collector struct {
	program   string
	spec      scenario.Spec
	hangAfter time.Duration
	deps      collect.Deps
	clock     func() time.Time
	origin    time.Time
	// firstPause is the shortest pause before something is tried again.
	firstPause time.Duration

	process  *process // nil while there is none
	readings *readings
	seq      uint64
	asked    time.Time // when the open request was sent; zero: there is none
	retried  []int     // GPUs that the open request tries again
	slow     *wire.Slow

	pauses pauses         // of the helper as a whole
	stuck  map[int]*stuck // GPUs whose calls hang, wire.Library among them
	deaths string         // what was said of the last death, so that it is said once

	owners owners
	own    own
}

// stuck is a GPU that does not answer.
type stuck struct {
	pauses
	call  string
	since time.Time
}

// pauses is how long to wait before the next try.
type pauses struct {
	next   time.Time
	length time.Duration
}

func (p *pauses) wait(now time.Time, first time.Duration) {
	p.length = min(lastPause, max(first, 2*p.length))
	p.next = now.Add(p.length)
}

func newCollector(program string, spec scenario.Spec, hangAfter time.Duration, deps collect.Deps, clock func() time.Time) *collector {
	return &collector{
		program: program, spec: spec, hangAfter: hangAfter, deps: deps, clock: clock, origin: clock(), firstPause: firstPause,
		stuck: map[int]*stuck{}, owners: owners{proc: "/proc"}, own: own{xids: map[xids]seen{}},
	}
}

// Collect measures every GPU that answers. It says Unsupported where there is no
// driver and no GPU, and Stuck while a call to one of them hangs; what the
// others have is emitted all the same.
func (c *collector) Collect(ctx context.Context, emit func(metric.Sample)) (collect.Status, error) {
	status, err := c.collect(ctx, emit)
	if status != collect.Unsupported {
		c.emitOwn(emit)
	}
	return status, err
}

func (c *collector) collect(ctx context.Context, emit func(metric.Sample)) (collect.Status, error) {
	if err := c.ready(); err != nil {
		return c.unwell(err)
	}
	if c.asked.IsZero() {
		if err := c.ask(); err != nil {
			return collect.Unknown, errors.Join(err, c.died(ctx))
		}
	}
	done, err := c.await(ctx)
	switch {
	case err != nil:
		return c.unwell(err)
	case done == nil:
		return c.unwell(fault.New(fault.Deadline, "NVML has not answered for %s", c.clock().Sub(c.asked).Round(time.Millisecond)))
	}
	c.asked, c.pauses = time.Time{}, pauses{}
	c.answered()
	c.own.meet(done.GPUs)
	switch done.Outcome {
	case wire.Unsupported:
		return collect.Unsupported, nil
	case wire.Failed:
		c.readings.emit(emit)
		return collect.Unknown, errors.New(done.Err)
	}
	c.readings.emit(emit)
	if len(c.stuck) > 0 {
		return collect.Stuck, c.complaint()
	}
	return collect.Ok, nil
}

// unwell is the status for an error: stuck while something hangs.
func (c *collector) unwell(err error) (collect.Status, error) {
	switch {
	case fault.Is(err, fault.Unsupported):
		return collect.Unsupported, nil
	case len(c.stuck) > 0:
		return collect.Stuck, err
	}
	return collect.Unknown, err
}

// ready starts a helper where there is none and it is time for one.
func (c *collector) ready() error {
	if c.process != nil {
		return nil
	}
	now := c.clock()
	if library := c.stuck[wire.Library]; library != nil && now.Before(library.next) {
		return c.complaint()
	}
	if now.Before(c.pauses.next) {
		return fault.New(fault.Unavailable, "the NVML helper died (%s); the next one starts in %s", c.deaths, c.pauses.next.Sub(now).Round(time.Second))
	}
	started, err := launch(c.program, probe.Settings{GPUs: c.spec, Origin: c.origin, Slow: c.hangAfter / slowPart}, c.deps.Log, c.told)
	if err != nil {
		c.pauses.wait(now, c.firstPause)
		c.deaths = err.Error()
		return err
	}
	c.own.starts++
	c.process, c.readings, c.asked = started, newReadings(c.owners.of), time.Time{}
	return nil
}

// ask sends a request: without the GPUs that hang, and with those last whose
// next try is due.
func (c *collector) ask() error {
	now, request := c.clock(), &wire.Request{Seq: c.seq + 1}
	c.retried = c.retried[:0]
	for gpu, s := range c.stuck {
		switch {
		case gpu == wire.Library:
		case now.Before(s.next):
			request.Skip = append(request.Skip, gpu)
		default:
			request.Last = append(request.Last, gpu)
			c.retried = append(c.retried, gpu)
		}
	}
	slices.Sort(request.Skip)
	slices.Sort(request.Last)
	if c.deps.Trainers != nil {
		c.owners.trainers = c.deps.Trainers()
		for _, t := range c.owners.trainers {
			request.PIDs = append(request.PIDs, t.PID)
		}
	}
	c.seq++
	c.asked, c.slow = now, nil
	return c.process.ask(request)
}

// await takes what the helper says until its answer is whole; nil when that
// takes longer than this call may.
func (c *collector) await(ctx context.Context) (*wire.Done, error) {
	left := time.Hour
	if deadline, ok := ctx.Deadline(); ok {
		left = time.Until(deadline) - margin
	}
	call := time.NewTimer(left)
	defer call.Stop()
	hang := time.NewTimer(c.hangAfter - c.clock().Sub(c.asked))
	defer hang.Stop()
	for {
		select {
		case m := <-c.process.messages:
			if done := c.take(m); done != nil {
				return done, nil
			}
		case <-c.process.ended:
			if done := c.drain(); done != nil {
				return done, nil
			}
			return nil, c.died(ctx)
		case <-hang.C:
			return nil, c.hung(ctx)
		case <-call.C:
			return nil, nil
		case <-ctx.Done():
			return nil, nil
		}
	}
}

func (c *collector) take(m wire.Message) *wire.Done {
	switch m := m.(type) {
	case *wire.Series:
		c.readings.name(m)
	case *wire.Values:
		c.readings.take(m)
	case *wire.Slow:
		c.slow = m
	case *wire.Done:
		if m.Seq == c.seq {
			return m
		}
	}
	return nil
}

// drain takes what a helper that is gone had said before.
func (c *collector) drain() *wire.Done {
	for {
		select {
		case m := <-c.process.messages:
			if done := c.take(m); done != nil {
				return done
			}
		default:
			return nil
		}
	}
}

// answered takes in that the helper's answer is whole: what it tried again
// answers.
func (c *collector) answered() {
	for _, gpu := range append(c.retried, wire.Library) {
		if s := c.stuck[gpu]; s != nil && (gpu == wire.Library || c.readings.tells(gpu)) {
			delete(c.stuck, gpu)
			c.deps.Log.Info("a GPU answers again", "gpu", part(gpu), "after", c.clock().Sub(s.since).Round(time.Second))
		}
	}
}

// died cleans up after a helper that is gone, and says why.
func (c *collector) died(_ context.Context) error {
	<-c.process.ended
	why := c.process.err
	c.process, c.asked = nil, time.Time{}
	c.pauses.wait(c.clock(), c.firstPause)
	if why == nil {
		why = errors.New("it ended by itself")
	}
	c.deaths = why.Error()
	return fault.New(fault.Unavailable, "the NVML helper died: %w", why)
}

// hung ends a helper whose call does not return. Which call that is it has said
// itself; where it could not even do that the library as a whole is stuck.
func (c *collector) hung(ctx context.Context) error {
	gpu, call := wire.Library, "no call that it could name"
	if c.slow != nil {
		gpu, call = c.slow.GPU, c.slow.Call
	}
	now := c.clock()
	if !c.process.end() {
		c.own.left = append(c.own.left, c.process)
		c.deps.Log.Error("the NVML helper cannot be killed: it sleeps in the kernel, and is left behind", "pid", c.process.cmd.Process.Pid)
	}
	c.process, c.asked = nil, time.Time{}
	s := c.stuck[gpu]
	fresh := s == nil
	if fresh {
		s = &stuck{since: now}
		c.stuck[gpu] = s
	}
	s.call = call
	s.wait(now, c.firstPause)
	if fresh && c.deps.Faults != nil {
		if err := c.deps.Faults(ctx, c.stuckFault(gpu, call)); err != nil {
			delete(c.stuck, gpu) // so that it is told again
			return errors.Join(c.complaintOf(gpu, call), err)
		}
	}
	return c.complaint()
}

// complaint says what does not answer.
func (c *collector) complaint() error {
	var parts []string
	for gpu, s := range c.stuck {
		parts = append(parts, fmt.Sprintf("%s does not answer since %s (%s)", part(gpu), s.since.UTC().Format(time.TimeOnly), s.call))
	}
	slices.Sort(parts)
	return fault.New(fault.Unavailable, "%s", strings.Join(parts, "; "))
}

func (c *collector) complaintOf(gpu int, call string) error {
	return fault.New(fault.Unavailable, "%s does not answer (%s)", part(gpu), call)
}

func part(gpu int) string {
	if gpu == wire.Library {
		return "NVML"
	}
	return fmt.Sprintf("GPU %d", gpu)
}

// stuckFault is what is said of a GPU that does not answer.
func (c *collector) stuckFault(gpu int, call string) *commonv1.NodeFault {
	f := &commonv1.NodeFault{
		Kind: commonv1.FaultKind_FAULT_KIND_DEVICE_STUCK, Title: part(gpu) + " does not answer",
		Advice:   "Expect work on it to hang. Drain the node, reset the GPU, and reboot where that does not help.",
		Severity: commonv1.FaultSeverity_FAULT_SEVERITY_CRITICAL, Source: "agent", Device: "nvml",
		Message: fmt.Sprintf("%s has not returned for %s", call, c.hangAfter),
	}
	if gpu != wire.Library {
		index := uint32(gpu)
		f.Gpu, f.Device = &index, part(gpu)
	}
	return f
}

// told records an XID that the driver's event set told.
func (c *collector) told(ctx context.Context, x *wire.XID) {
	c.own.count(x, c.clock())
	if c.deps.Faults == nil {
		return
	}
	f := xid.Fault(x.Number, "nvml", x.PCI, fmt.Sprintf("XID %d on GPU %d", x.Number, x.GPU))
	if x.GPU != wire.Library {
		index := uint32(x.GPU)
		f.Gpu = &index
	}
	if err := c.deps.Faults(ctx, f); err != nil {
		c.deps.Log.Error("record XID", "gpu", x.GPU, "xid", x.Number, "error", err)
	}
}

// Close ends the helper.
func (c *collector) Close() error {
	if c.process != nil {
		c.process.end()
		c.process = nil
	}
	return nil
}
