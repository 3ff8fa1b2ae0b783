// Package cores keeps the agent on one core while it has little to do, and gives
// it all of them for checkpoints.
//
// Go starts with as many threads' worth of scheduling as the machine has cores. A
// node for training has a hundred; an agent that measures for some milliseconds
// every few seconds pays for each of them, in caches of memory and in threads that
// wake up to look for work. On one it takes a quarter less CPU than on two.
package cores

import (
	"context"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vigil-ml/vigil/internal/life"
)

const (
	// every is how far apart the looks are at what the agent takes.
	every = 10 * time.Second
	// much is the share of a core over a look from which one core counts as too
	// few, and little that below which it is enough.
	much   = 0.5
	little = 0.25
)

// Config is what users say about the agent's cores. The environment's GOMAXPROCS
// goes before it.
type Config struct {
	// Idle is on how many cores the agent runs while it has little to do; 0 leaves
	// it at as many as Go takes.
	Idle int `yaml:"idle"`
}

// Defaults is one core.
func Defaults() Config { return Config{Idle: 1} }

// Check reports a number that there cannot be.
func (c Config) Check(report func(key, format string, args ...any)) {
	if c.Idle < 0 {
		report("idle", "is %d; want 0 or more", c.Idle)
	}
}

// Governor sets how many cores the agent runs on. Make one with [New]; its
// methods are safe for concurrent use.
type Governor struct {
	idle, all int
	log       *slog.Logger
	set       func(cores int)
	free      func()
	used      func() time.Duration // CPU time of this program

	mu     sync.Mutex
	raised bool
	needed bool // somebody raised since the last look
}

// New makes a governor and puts the agent on its idle cores.
func New(config Config, log *slog.Logger) *Governor {
	g := &Governor{
		idle: config.Idle, all: runtime.GOMAXPROCS(0), log: log, free: giveBack, used: cpuTime,
		set: func(cores int) { runtime.GOMAXPROCS(cores) },
	}
	if os.Getenv("GOMAXPROCS") != "" || g.idle == 0 || g.idle >= g.all {
		g.idle = g.all
		return g
	}
	g.set(g.idle)
	return g
}

// cpuTime is what this program's threads took.
func cpuTime() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Raise gives the agent all cores until it has had little to do for a while. It
// is for what is about to take much.
func (g *Governor) Raise() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.needed = true
	if !g.raised && g.idle < g.all {
		g.raised = true
		g.set(g.all)
		g.log.Debug("on all cores", "cores", g.all)
	}
}

// Run looks every ten seconds at what the agent takes and gives it the cores for
// it, until ctx ends.
func (g *Governor) Run(ctx context.Context) error {
	if g.idle >= g.all {
		<-ctx.Done()
		return nil
	}
	before, at := g.used(), time.Now()
	first := true
	for life.InStep(ctx, every) {
		now, used := time.Now(), g.used()
		share := (used - before).Seconds() / now.Sub(at).Seconds()
		before, at = used, now
		if share > much {
			g.Raise()
		}
		if g.settle(share) || first {
			// What starting or a checkpoint took is the machine's again.
			g.free()
			first = false
		}
	}
	return nil
}

// settle goes back to the idle cores when they are enough; it tells whether it
// did.
func (g *Governor) settle(share float64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	needed := g.needed
	g.needed = false
	if !g.raised || needed || share > little {
		return false
	}
	g.raised = false
	g.set(g.idle)
	g.log.Debug("on few cores", "cores", g.idle)
	return true
}
