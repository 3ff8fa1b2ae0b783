// Package nvml measures NVIDIA GPUs through the driver's management library, or
// simulated ones.
//
// A call to a sick GPU may never return, and the process that made it cannot be
// ended in peace. So NVML is called by a helper, this same program under another
// argument (package probe), over a pair of pipes (package wire). The collector
// here asks it, keeps what it said, and kills it when a call does not return: the
// GPU is stuck then, is said so once, and everything else goes on without it. A
// program without cgo, or of the build tag nonvml, has no helper and says
// Unsupported.
package nvml

import (
	"cmp"
	"fmt"
	"os"
	"time"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/agent/collect/nvml/probe"
	"github.com/vigil-ml/vigil/agent/collect/nvml/scenario"
	"github.com/vigil-ml/vigil/internal/plug"
)

// Kind is the collector's entry in the catalogue.
var Kind = plug.Of("nvml", Config{HangAfter: 10 * time.Second}, New)

// Config is what users say about the collector.
type Config struct {
	// GPU is which GPUs there are: empty or "driver" for those of the driver, or
	// for instance "simulated=8xH100,script=faults.yaml". Empty: what the agent was
	// told as a whole.
	GPU string `yaml:"gpu"`
	// HangAfter is how long a call to NVML may take before it counts as hung.
	HangAfter time.Duration `yaml:"hang_after"`
}

// Check reports settings that cannot work.
func (c Config) Check(report func(key, format string, args ...any)) {
	if c.HangAfter <= 0 {
		report("hang_after", "is %s; want a positive duration", c.HangAfter)
	}
	if _, err := scenario.Parse(c.GPU); err != nil {
		report("gpu", "%v", err)
	}
}

// New makes the collector. The driver is looked for again at each collection,
// so that one that is loaded later is found.
func New(config Config, deps collect.Deps) (collect.Collector, error) {
	spec, err := scenario.Parse(cmp.Or(config.GPU, deps.GPU))
	if err != nil {
		return nil, err
	}
	if _, err := spec.Load(); err != nil {
		return nil, err
	}
	if !probe.Supported {
		return absent{}, nil
	}
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own program: %w", err)
	}
	return newCollector(program, spec, config.HangAfter, deps, time.Now), nil
}
