//go:build !(cgo && linux) || nonvml

package nvml

import (
	"context"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/internal/metric"
)

type stub struct{}

func newCollector(collect.Deps) collect.Collector { return stub{} }

// Collect says that there is nothing to measure.
func (stub) Collect(context.Context, func(metric.Sample)) (collect.Status, error) {
	return collect.Unsupported, nil
}
