package agent

import (
	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/agent/collect/cgroup"
	"github.com/vigil-ml/vigil/agent/collect/fabric"
	"github.com/vigil-ml/vigil/agent/collect/host"
	"github.com/vigil-ml/vigil/agent/collect/kernel"
	"github.com/vigil-ml/vigil/agent/collect/nvml"
	"github.com/vigil-ml/vigil/agent/collect/process"
	"github.com/vigil-ml/vigil/agent/vault/blob"
	"github.com/vigil-ml/vigil/agent/vault/blob/dir"
	"github.com/vigil-ml/vigil/agent/vault/blob/s3"
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

// Replicas is the catalogue of second stores for checkpoints. A new kind is one
// line here.
func Replicas() plug.Catalog[blob.Store, blob.Deps] {
	return plug.Catalog[blob.Store, blob.Deps]{
		dir.Kind,
		s3.Kind,
	}
}
