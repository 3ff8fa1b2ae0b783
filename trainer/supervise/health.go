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
	// printedFloor is the least patience with a command whose steps are read off
	// what it prints: it prints of some, and of evaluations perhaps nothing.
	printedFloor = 30 * time.Minute
	// printedPauses is how many pauses between printed steps must be known before
	// the patience follows from them.
	printedPauses = 3
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
	printed bool // its steps are read off what it prints
	pauses  int  // between two steps so far

	pulse       *pulse
	activity    activity
	utilization func() (busy float64, known bool) // of the node's GPUs; nil: nobody knows
}

// finding is what a look found; at most one of limit, hang and warning is set.
type finding struct {
	limit, hang, warning string
	evidence             []string
}

func newHealth(config Config, pid int, exitFile string, launched time.Time, pulse *pulse) health {
	return health{config: config, pid: pid, exitFile: exitFile, since: launched, pulse: pulse, activity: activity{since: launched}}
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
	if !h.printed {
		return max(hangFloor, hangFactor*h.longest)
	}
	if h.pauses < printedPauses {
		return max(printedFloor, h.config.Health.FirstStep)
	}
	return max(printedFloor, hangFactor*h.longest)
}

// look looks once.
func (h *health) look(now time.Time) finding {
	progress, known := trainer.ReadProgress(h.exitFile)
	h.printed = false
	if step := h.pulse.step.Load(); !known && step > 0 {
		progress.Step, known, h.printed = step, true, true
	}
	if known && (!h.known || progress.Step != h.step) {
		if h.known {
			h.longest = max(h.longest, now.Sub(h.since))
			h.pauses++
		}
		h.step, h.known, h.since, h.idleCPU = progress.Step, true, now, 0
	}
	if limit := h.config.Limits.GPUMemoryBytes; h.config.Health.GPUMemory && limit > 0 && progress.GPUBytes > limit {
		return finding{limit: fmt.Sprintf("limits.max_gpu_memory_gb: the process uses %d bytes of GPU memory, %d are allowed", progress.GPUBytes, limit)}
	}
	warning := h.measure(now)
	if !known {
		// A command that never tells a step hangs when nothing can be seen of it.
		return finding{hang: h.silent(now), warning: warning}
	}
	idle := now.Sub(h.since)
	if h.printed { // what it prints besides is a sign of life
		idle = min(idle, now.Sub(h.pulse.last()))
	}
	if h.patience() > 0 && idle > h.patience() {
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
func (h *health) measure(now time.Time) string {
	if !h.config.Health.CPU && !h.config.Health.Memory {
		return ""
	}
	is, ok := usageOf(h.pid)
	if !ok {
		return ""
	}
	was := h.usage
	h.usage = is
	h.idleCPU += max(0, is.cpu-was.cpu)
	if h.config.Health.CPU {
		h.activity.seen(now, h.pulse.last(), h.config.Health.Interval, was, is)
	}
	if !h.config.Health.Memory || was.resident == 0 {
		return ""
	}
	if is.resident <= was.resident {
		h.grows = 0
		return ""
	}
	if h.grows == 0 {
		h.from = was.resident
	}
	h.grows++
	if h.warned || h.grows < leakLooks || float64(is.resident) < leakGrowth*float64(h.from) {
		return ""
	}
	h.warned = true
	return fmt.Sprintf("resident memory of the command only grows: from %d to %d bytes in %d looks", h.from, is.resident, h.grows)
}

// usage is what a process and its descendants use.
type usage struct {
	cpu      time.Duration
	resident int64 // bytes
	moved    int64 // bytes that were read and written, files and all else
}
