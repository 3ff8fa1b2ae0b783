//go:build cgo && linux && !nonvml

package measure

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/vigil-ml/vigil/agent/collect/nvml/wire"
	"github.com/vigil-ml/vigil/internal/metric"
)

const (
	// seldom is how often is read what hardly ever changes or costs much.
	seldom = 10 * time.Second
	// unsupportedAgain is how often is asked for what a GPU does not have: a
	// mode may be switched.
	unsupportedAgain = 5 * time.Minute
)

// Deps is what a meter works with.
type Deps struct {
	// Library is NVML.
	Library nvml.Interface
	Clock   func() time.Time
	// Send hands a message on; it is not kept. It is called by Collect alone.
	Send func(wire.Message)
}

// Meter measures every GPU. Collect is for one goroutine, Where for many.
type Meter struct {
	deps    Deps
	defs    map[string]int // index in metric.GPUs by name
	refs    uint32
	open    bool
	counted time.Time
	devices []*device

	gpu  atomic.Int64
	call atomic.Pointer[string]
}

// New makes a meter. The library is opened by the first collection, and again
// after the driver went away.
func New(deps Deps) *Meter {
	m := &Meter{deps: deps, defs: map[string]int{}}
	for i, def := range metric.GPUs() {
		m.defs[def.Name] = i
	}
	m.enter(wire.Library, "start")
	return m
}

// Where gives the GPU and the NVML call that the meter is in.
func (m *Meter) Where() (gpu int, call string) { return int(m.gpu.Load()), *m.call.Load() }

func (m *Meter) enter(gpu int, call string) {
	m.gpu.Store(int64(gpu))
	m.call.Store(&call)
}

// Collect makes one collection and sends what it read. A GPU that fails takes
// no other with it.
func (m *Meter) Collect(request *wire.Request) *wire.Done {
	done := &wire.Done{Seq: request.Seq, Outcome: wire.OK}
	outcome, err := m.prepare()
	if outcome == wire.OK {
		err = m.measure(request)
		if err != nil {
			outcome = wire.Failed
		}
	}
	done.Outcome, done.GPUs = outcome, len(m.devices)
	if err != nil {
		done.Err = err.Error()
		m.close(err)
	}
	m.enter(wire.Library, "nothing")
	return done
}

// measure reads every GPU that is not to be skipped.
func (m *Meter) measure(request *wire.Request) (wrong error) {
	order := make([]*device, 0, len(m.devices))
	for _, last := range []bool{false, true} {
		for _, d := range m.devices {
			if !slices.Contains(request.Skip, d.index) && slices.Contains(request.Last, d.index) == last {
				order = append(order, d)
			}
		}
	}
	for _, d := range order {
		if err := d.measure(); err != nil {
			wrong = errors.Join(wrong, fmt.Errorf("measure GPU %d: %w", d.index, err))
		}
	}
	return wrong
}

// prepare opens the library and counts the GPUs.
func (m *Meter) prepare() (wire.Outcome, error) {
	if !m.open {
		m.enter(wire.Library, "nvmlInit")
		switch ret := m.deps.Library.Init(); ret {
		case nvml.SUCCESS:
			m.open = true
		case nvml.ERROR_LIBRARY_NOT_FOUND, nvml.ERROR_DRIVER_NOT_LOADED, nvml.ERROR_NOT_FOUND:
			return wire.Unsupported, nil
		default:
			return wire.Failed, fmt.Errorf("open NVML: %w", ret)
		}
	}
	now := m.deps.Clock()
	if m.devices == nil || now.Sub(m.counted) >= seldom {
		m.enter(wire.Library, "nvmlDeviceGetCount")
		count, ret := m.deps.Library.DeviceGetCount()
		if ret != nvml.SUCCESS {
			return wire.Failed, fmt.Errorf("count GPUs: %w", ret)
		}
		m.counted = now
		for i := len(m.devices); i < count; i++ {
			m.devices = append(m.devices, newDevice(m, i))
		}
		m.devices = m.devices[:count]
	}
	if len(m.devices) == 0 {
		return wire.Unsupported, nil
	}
	return wire.OK, nil
}

// close closes the library where an error says that the driver went away, so
// that the next collection opens it anew.
func (m *Meter) close(err error) {
	for _, gone := range []nvml.Return{nvml.ERROR_UNINITIALIZED, nvml.ERROR_DRIVER_NOT_LOADED, nvml.ERROR_LIB_RM_VERSION_MISMATCH} {
		if m.open && errors.Is(err, gone) {
			m.enter(wire.Library, "nvmlShutdown")
			_ = m.deps.Library.Shutdown() // it says what is known
			m.open = false
			for _, d := range m.devices {
				d.handle = nil
			}
		}
	}
}

// has tells whether the loaded library has a function. Calling one that it
// lacks ends the process.
func (m *Meter) has(symbol string) bool {
	return symbol == "" || m.deps.Library.Extensions().LookupSymbol(symbol) == nil
}

// define announces a series and gives its number.
func (m *Meter) define(def metric.Def, gpu int, labels ...string) uint32 {
	m.refs++
	m.deps.Send(&wire.Series{
		Ref: m.refs, Def: m.defs[def.Name], GPU: gpu, Labels: append([]string{strconv.Itoa(gpu)}, labels...),
	})
	return m.refs
}

// absent tells whether an answer says that the GPU or its driver does not have
// or does not give something.
func absent(ret nvml.Return) bool {
	switch ret {
	case nvml.ERROR_NOT_SUPPORTED, nvml.ERROR_FUNCTION_NOT_FOUND, nvml.ERROR_NO_DATA, nvml.ERROR_NO_PERMISSION,
		nvml.ERROR_ARGUMENT_VERSION_MISMATCH, nvml.ERROR_INVALID_ARGUMENT:
		return true
	default:
		return false
	}
}

// final tells whether an answer says that nothing else will come.
func final(ret nvml.Return) bool {
	return ret == nvml.ERROR_GPU_IS_LOST || ret == nvml.ERROR_UNINITIALIZED || ret == nvml.ERROR_RESET_REQUIRED
}
