package supervise

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// idleCPU is the share of one processor that a command's processes together
	// may use and still stand still: threads that wait wake now and then.
	idleCPU = 0.01
	// idleBytes is how much they may read and write from one look to the next:
	// keepalives and logs of libraries.
	idleBytes = 64 << 10
	// idleGPU is the utilization of a GPU that is none.
	idleGPU = 0.05
)

// pulse is what a command shows of itself without an SDK: that it prints, and
// the steps that it prints of. It is safe for concurrent use.
type pulse struct {
	printed atomic.Int64 // when, in nanoseconds since 1970; 0: nothing yet
	step    atomic.Int64 // the last; 0: none
}

// Write takes note that something is printed.
func (p *pulse) Write(text []byte) (int, error) {
	p.printed.Store(time.Now().UnixNano())
	return len(text), nil
}

// last gives when it printed last; long ago when it never did.
func (p *pulse) last() time.Time { return time.Unix(0, p.printed.Load()) }

// stepped takes note of a step that was printed.
func (p *pulse) stepped(step int64) { p.step.Store(step) }

// activity is since when a command has shown no sign of work. It is for one
// goroutine.
type activity struct {
	since time.Time // of the last sign
	cpu   time.Duration
	bytes int64 // that were read and written
	looks int
}

// seen takes in what its processes used from one look to the next.
func (a *activity) seen(now time.Time, printed time.Time, interval time.Duration, was, is usage) {
	a.looks++
	if printed.After(a.since) {
		a.since = printed
	}
	cpu, moved := max(0, is.cpu-was.cpu), max(0, is.moved-was.moved)
	if a.looks == 1 || float64(cpu) > idleCPU*float64(interval) || moved > idleBytes {
		a.since, a.cpu, a.bytes = now, 0, 0
		return
	}
	a.cpu += cpu
	a.bytes += moved
}

// RunsElsewhere tells whether a command's processes cannot be seen to be its
// descendants on this machine: it is a launcher that has them started by another
// program, or a scheduler's job in which it may call one. Its silence means
// nothing then.
func RunsElsewhere(command, environ []string) bool {
	launchers := []string{"srun", "mpirun", "mpiexec", "prun", "jsrun", "aprun", "flux", "ssh", "pdsh", "clush", "ray", "kubectl"}
	if len(command) > 0 && slices.Contains(launchers, filepath.Base(command[0])) {
		return true
	}
	return slices.ContainsFunc([]string{"SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "FLUX_JOB_ID"}, func(name string) bool {
		return slices.ContainsFunc(environ, func(entry string) bool { return strings.HasPrefix(entry, name+"=") })
	})
}

// silent says that the command hangs, as far as can be seen from outside; empty:
// it does not. It is for commands that tell no steps at all.
func (h *health) silent(now time.Time) string {
	patience := h.config.Health.SilentAfter
	quiet := now.Sub(h.activity.since)
	if patience == 0 || h.activity.looks < 2 || quiet <= patience || h.gpuBusy() {
		return ""
	}
	return fmt.Sprintf("it has printed nothing for %s, its processes used %s of CPU time together and read and wrote %d bytes, and no GPU was busy",
		quiet.Round(time.Second), h.activity.cpu.Round(10*time.Millisecond), h.activity.bytes)
}

// gpuBusy asks the agent whether a GPU of the node works; without an agent none
// is known to.
func (h *health) gpuBusy() bool {
	if h.utilization == nil {
		return false
	}
	busy, known := h.utilization()
	return known && busy > idleGPU
}

// utilization gives the agent's word on the node's GPUs.
func (s *supervisor) utilization(ctx context.Context) func() (float64, bool) {
	return func() (float64, bool) {
		if !s.session.Connected() {
			return 0, false
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
		defer cancel()
		standing, err := s.session.Standing(ctx, time.Now(), "")
		if err != nil || standing.GpuUtilization == nil {
			return 0, false
		}
		return standing.GetGpuUtilization(), true
	}
}
