// Command vigil-controlplane is what all agents report to: it detects, opens
// incidents, tells people, and has checkpoints made.
package main

import (
	"os"

	"github.com/vigil-ml/vigil/controlplane"
	"github.com/vigil-ml/vigil/internal/daemon"
)

func main() {
	os.Exit(daemon.Program[controlplane.Config]{
		Name:         "vigil-controlplane",
		Summary:      "Takes in what agents report, detects what goes wrong, tells people, and acts.",
		Defaults:     controlplane.Defaults,
		Check:        controlplane.Check,
		RunReloading: controlplane.RunReloading,
	}.Main(os.Args[1:], os.Stdout, os.Stderr))
}
