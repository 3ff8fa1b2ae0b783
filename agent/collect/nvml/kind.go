// Package nvml measures NVIDIA GPUs through the driver's management library.
//
// The library is loaded when the program runs, and needs cgo to be called: a
// program built without cgo, for another system than Linux, or with the build
// tag nonvml has a collector that always says Unsupported.
package nvml

import (
	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/internal/plug"
)

// Kind is the collector's entry in the catalogue.
var Kind = plug.Of("nvml", Config{}, New)

// Config is what users say about the collector: nothing yet.
type Config struct{}

// New makes the collector. The driver is looked for at each collection, so
// that one that is loaded later is found.
func New(_ Config, deps collect.Deps) (collect.Collector, error) { return newCollector(deps), nil }
