package agent

import (
	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/agent/collect/cgroup"
	"github.com/vigil-ml/vigil/agent/collect/fabric"
	"github.com/vigil-ml/vigil/agent/collect/host"
	"github.com/vigil-ml/vigil/agent/collect/kernel"
	"github.com/vigil-ml/vigil/agent/collect/nvml"
	"github.com/vigil-ml/vigil/agent/collect/process"
	"github.com/vigil-ml/vigil/internal/plug"
)

// Collectors is the catalogue of what is measured on a node. A new kind is one
// line here.
func Collectors() plug.Catalog[collect.Collector, collect.Deps] {
	return plug.Catalog[collect.Collector, collect.Deps]{
		host.Kind,
		host.TasksKind,
		cgroup.Kind,
		process.Kind,
		process.MemoryKind,
		kernel.Kind,
		fabric.Kind,
		nvml.Kind,
	}
}
