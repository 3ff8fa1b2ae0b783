package nvml

import (
	"context"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/internal/metric"
)

// absent is the collector of a program that cannot call NVML.
type absent struct{}

// Collect measures nothing.
func (absent) Collect(context.Context, func(metric.Sample)) (collect.Status, error) {
	return collect.Unsupported, nil
}
