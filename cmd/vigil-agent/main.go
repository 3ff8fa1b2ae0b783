// How many cores there are is looked up once. The runtime would look again every
// second, which costs an agent that has little to do as much as a collector.

//go:debug updatemaxprocs=0

// Command vigil-agent is the one daemon on a node: it sees the host, the GPUs
// and the training, saves checkpoints, and reports to the control plane.
package main

import (
	"flag"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/vigil-ml/vigil/agent"
	"github.com/vigil-ml/vigil/agent/collect/nvml/probe"
	"github.com/vigil-ml/vigil/internal/daemon"
	"github.com/vigil-ml/vigil/trainer/balance/weigh"
)

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "scan":
			os.Exit(scan(os.Args[2:], os.Stdout, os.Stderr))
		case "join":
			os.Exit(join(os.Args[2:], os.Stdout, os.Stderr))
		case probe.Command:
			runtime.GOMAXPROCS(1) // one call after the other
			os.Exit(probe.Main(os.Args[2:], os.Stdin, os.Stdout, os.Stderr))
		}
	}
	if os.Getenv("GOGC") == "" {
		// The agent's live heap is a few megabytes: collecting it twice as often
		// costs next to nothing and keeps its memory small.
		debug.SetGCPercent(50)
	}
	os.Exit(daemon.Program[agent.Config]{
		Name:         "vigil-agent",
		Summary:      "Watches this node and the training on it, and saves what would be lost. \"vigil-agent scan\" looks at it once.",
		Defaults:     agent.Defaults,
		Check:        agent.Check,
		RunReloading: agent.Deps{Weights: weigh.New()}.Run,
		Flags:        gpuFlag,
	}.Main(os.Args[1:], os.Stdout, os.Stderr))
}

// gpuFlag adds --gpu, which says which GPUs there are.
func gpuFlag(flags *flag.FlagSet) func(*agent.Config) {
	gpu := flags.String("gpu", "", "which `GPUs` there are: driver, or simulated=8xH100,script=FILE (A100, H100, H200, B200)")
	return func(config *agent.Config) {
		if *gpu != "" {
			config.GPU = *gpu
		}
	}
}
