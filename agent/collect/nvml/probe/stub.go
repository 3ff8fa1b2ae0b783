//go:build !(cgo && linux) || nonvml

package probe

import (
	"context"
	"io"

	"github.com/vigil-ml/vigil/agent/collect/nvml/wire"
	"github.com/vigil-ml/vigil/internal/fault"
)

// Supported tells whether this program can call NVML.
const Supported = false

func run(context.Context, Settings, *wire.Reader, io.Writer) error {
	return fault.New(fault.Unsupported, "call NVML: this program was built without cgo")
}
