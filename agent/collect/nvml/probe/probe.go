// Package probe is the process that calls NVML for the agent: the agent's own
// program under another argument. It reads requests from its standard input and
// answers on its standard output; both are pipes, and nothing listens. It is
// there to be killed: a call to a sick GPU may never return.
package probe

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"runtime/debug"
	"time"

	"github.com/vigil-ml/vigil/agent/collect/nvml/scenario"
	"github.com/vigil-ml/vigil/agent/collect/nvml/wire"
	"github.com/vigil-ml/vigil/internal/fault"
)

// Command is the argument under which the agent's program is the helper. It is
// not for users.
const Command = "nvml-probe"

const (
	// garbagePercent keeps the heap near what is in use: it is small, and the
	// memory counts on every node.
	garbagePercent = 25
	memoryLimit    = 64 << 20
)

// Settings is what the agent tells its helper.
type Settings struct {
	// GPUs says which GPUs to measure.
	GPUs scenario.Spec
	// Origin is when a simulation began: a helper that is started again goes on
	// where the last one was.
	Origin time.Time
	// Slow is how long a collection may take before the helper says where it
	// is; > 0.
	Slow time.Duration
}

// Args gives the helper's command line, the command first.
func (s Settings) Args() []string {
	return []string{
		Command, "-gpu", s.GPUs.String(), "-origin", s.Origin.Format(time.RFC3339Nano), "-slow", s.Slow.String(),
	}
}

// parse reads what Args gives, without the command.
func parse(args []string) (Settings, error) {
	flags := flag.NewFlagSet(Command, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	gpu := flags.String("gpu", "", "")
	origin := flags.String("origin", "", "")
	slow := flags.Duration("slow", time.Second, "")
	if err := flags.Parse(args); err != nil {
		return Settings{}, fault.Mark(fault.Invalid, err)
	}
	spec, specErr := scenario.Parse(*gpu)
	at, timeErr := time.Parse(time.RFC3339Nano, *origin)
	if err := errors.Join(specErr, timeErr); err != nil {
		return Settings{}, fault.Mark(fault.Invalid, err)
	}
	return Settings{GPUs: spec, Origin: at, Slow: *slow}, nil
}

// Main runs the helper until its input ends and gives its exit code. What it
// has to say goes to stderr, which the agent reads.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	debug.SetGCPercent(garbagePercent)
	debug.SetMemoryLimit(memoryLimit)
	settings, err := parse(args)
	if err == nil {
		err = run(context.Background(), settings, wire.NewReader(stdin), stdout)
	}
	if err != nil {
		_, _ = fmt.Fprintln(stderr, err)
		return fault.ExitCode(err)
	}
	return 0
}
