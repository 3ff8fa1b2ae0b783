package supervise

import (
	"fmt"
	"time"

	"github.com/vigil-ml/vigil/trainer"
)

const (
	// hangFactor is how many times the longest pause between two steps so far a
	// pause may last: evaluations and checkpoints are among them.
	hangFactor = 10
	// hangFloor is the least patience: what has not been seen yet may take longer
	// than what was.
	hangFloor = 10 * time.Minute
	// leakLooks is how many looks in a row must each show more memory than the one
	// before to call it a leak, and leakGrowth what they must come to.
	leakLooks  = 60
	leakGrowth = 1.5
)

// health is what is known of a command while it runs. It is for one goroutine.
type health struct {
	config   Config
	pid      int
	exitFile string

	step    int64
	known   bool
	since   time.Time     // of the last step, or of the launch
	longest time.Duration // pause between two steps so far
	usage   usage         // at the last look
	idleCPU time.Duration // CPU time used since the last step
	grows   int           // looks in a row with more memory
	from    int64         // bytes at the first of them
	warned  bool
}

// finding is what a look found; at most one of limit, hang and warning is set.
type finding struct {
	limit, hang, warning string
	evidence             []string
}

func newHealth(config Config, pid int, exitFile string, launched time.Time) health {
	return health{config: config, pid: pid, exitFile: exitFile, since: launched}
}

// patience is how long no step may finish now. Before the first step it is the
// time for that, and afterwards, unless it was set, it follows from the steps,
// so that nobody has to order timeouts by hand.
func (h *health) patience() time.Duration {
	switch {
	case !h.known:
		return h.config.Health.FirstStep
	case h.config.Health.HangAfter > 0:
		return h.config.Health.HangAfter
	}
	return max(hangFloor, hangFactor*h.longest)
}

// look looks once.
func (h *health) look(now time.Time) finding {
	progress, known := trainer.ReadProgress(h.exitFile)
	if known && (!h.known || progress.Step != h.step) {
		if h.known {
			h.longest = max(h.longest, now.Sub(h.since))
		}
		h.step, h.known, h.since, h.idleCPU = progress.Step, true, now, 0
	}
	if limit := h.config.Limits.GPUMemoryBytes; h.config.Health.GPUMemory && limit > 0 && progress.GPUBytes > limit {
		return finding{limit: fmt.Sprintf("limits.max_gpu_memory_gb: the process uses %d bytes of GPU memory, %d are allowed", progress.GPUBytes, limit)}
	}
	warning := h.measure()
	// A command that never tells a step cannot be told to hang.
	if idle := now.Sub(h.since); known && h.patience() > 0 && idle > h.patience() {
		f := finding{hang: fmt.Sprintf("no step has finished for %s, after step %d; the longest pause before was %s",
			idle.Round(time.Second), h.step, h.longest.Round(time.Second))}
		if h.config.Health.CPU {
			f.evidence = append(f.evidence, fmt.Sprintf("its processes used %s of CPU time meanwhile", h.idleCPU.Round(10*time.Millisecond)))
		}
		return f
	}
	return finding{warning: warning}
}

// measure measures the processes' use of the machine and gives a warning when
// their memory only grows.
func (h *health) measure() string {
	if !h.config.Health.CPU && !h.config.Health.Memory {
		return ""
	}
	now, ok := usageOf(h.pid)
	if !ok {
		return ""
	}
	was := h.usage
	h.usage = now
	h.idleCPU += max(0, now.cpu-was.cpu)
	if !h.config.Health.Memory || was.resident == 0 {
		return ""
	}
	if now.resident <= was.resident {
		h.grows = 0
		return ""
	}
	if h.grows == 0 {
		h.from = was.resident
	}
	h.grows++
	if h.warned || h.grows < leakLooks || float64(now.resident) < leakGrowth*float64(h.from) {
		return ""
	}
	h.warned = true
	return fmt.Sprintf("resident memory of the command only grows: from %d to %d bytes in %d looks", h.from, now.resident, h.grows)
}

// usage is what a process and its descendants use.
type usage struct {
	cpu      time.Duration
	resident int64 // bytes
}
