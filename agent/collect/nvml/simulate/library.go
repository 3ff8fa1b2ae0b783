//go:build cgo && linux && !nonvml

package simulate

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/gpus"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/server"

	"github.com/vigil-ml/vigil/agent/collect/nvml/scenario"
	"github.com/vigil-ml/vigil/internal/fault"
)

// Library is NVML with simulated GPUs. It is safe for concurrent use.
type Library struct {
	nvml.Interface // the mock server
	script         scenario.Script
	origin         time.Time
	clock          func() time.Time
	devices        []*device

	mu   sync.Mutex
	pids []int64
}

var _ nvml.Interface = (*Library)(nil)

// New makes the GPUs of a spec. Times of the script count from the origin.
func New(spec scenario.Spec, origin time.Time, clock func() time.Time) (*Library, error) {
	script, err := spec.Load()
	if err != nil {
		return nil, err
	}
	m := modelOf(spec.Model)
	base, err := server.New(server.WithGPUs(gpus.Multiple(spec.Count, m.config)...),
		server.WithDriverVersion(m.driver), server.WithNVMLVersion(m.nvml), server.WithCUDADriverVersion(12080))
	if err != nil {
		return nil, fault.New(fault.Internal, "make simulated GPUs: %w", err)
	}
	l := &Library{Interface: base, script: script, origin: origin, clock: clock}
	for i := range spec.Count {
		below, _ := base.DeviceGetHandleByIndex(i)
		l.devices = append(l.devices, &device{
			Device: below, lib: l, index: i, model: m, uuid: uuid(spec.Model, i), state: begin(m, l.now()),
		})
	}
	return l, nil
}

// uuid is the same for the same GPU in every simulation.
func uuid(model string, gpu int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", model, gpu))
	h := hex.EncodeToString(sum[:16])
	return "GPU-" + h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// Work says which processes train. With any, the GPUs work for them, one
// process after the other; with none, they do synthetic work.
func (l *Library) Work(pids []int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pids = slices.Clone(pids)
}

// workers gives the processes of a GPU, and whether there are any on the node.
func (l *Library) workers(gpu int) (mine []int64, any bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, pid := range l.pids {
		if i%len(l.devices) == gpu {
			mine = append(mine, pid)
		}
	}
	return mine, len(l.pids) > 0
}

func (l *Library) now() time.Duration { return l.clock().Sub(l.origin) }

// hang does not return while the script says so; library is a call to NVML
// itself, which hangs when all GPUs do.
func (l *Library) hang(hits func(scenario.Event) bool) {
	at := l.now()
	for _, e := range l.script.Events {
		if !e.Hang || !hits(e) || !l.script.Active(e, at) {
			continue
		}
		left := l.script.Until(e, at)
		if left == 0 {
			left = time.Duration(1<<63 - 1)
		}
		time.Sleep(left) // as a driver would: nothing but SIGKILL ends it
	}
}

// Init opens the library.
func (l *Library) Init() nvml.Return {
	l.hang(func(e scenario.Event) bool { return len(e.GPUs) == 0 })
	return nvml.SUCCESS
}

// Shutdown closes the library.
func (l *Library) Shutdown() nvml.Return { return nvml.SUCCESS }

// DeviceGetCount counts the GPUs.
func (l *Library) DeviceGetCount() (int, nvml.Return) {
	l.hang(func(e scenario.Event) bool { return len(e.GPUs) == 0 })
	return len(l.devices), nvml.SUCCESS
}

// DeviceGetHandleByIndex gives a GPU.
func (l *Library) DeviceGetHandleByIndex(index int) (nvml.Device, nvml.Return) {
	if index < 0 || index >= len(l.devices) {
		return nil, nvml.ERROR_INVALID_ARGUMENT
	}
	d := l.devices[index]
	if ret := d.enter(); ret != nvml.SUCCESS {
		return nil, ret
	}
	return d, nvml.SUCCESS
}

// Extensions is the library itself: it has every symbol.
func (l *Library) Extensions() nvml.ExtendedInterface { return symbols{} }

type symbols struct{}

// LookupSymbol finds every symbol.
func (symbols) LookupSymbol(string) error { return nil }
