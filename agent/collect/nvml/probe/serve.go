//go:build cgo && linux && !nonvml

package probe

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/vigil-ml/vigil/agent/collect/nvml/measure"
	"github.com/vigil-ml/vigil/agent/collect/nvml/simulate"
	"github.com/vigil-ml/vigil/agent/collect/nvml/wire"
	"github.com/vigil-ml/vigil/internal/life"
)

// Supported tells whether this program can call NVML.
const Supported = true

// library is NVML, and whom the simulation of it works for.
type library interface {
	nvml.Interface
	work(pids []int64)
}

type driver struct{ nvml.Interface }

func (driver) work([]int64) {}

type simulation struct{ *simulate.Library }

func (s simulation) work(pids []int64) { s.Work(pids) }

func open(s Settings) (library, error) {
	if !s.GPUs.Simulated() {
		return driver{nvml.New()}, nil
	}
	simulated, err := simulate.New(s.GPUs, s.Origin, time.Now)
	return simulation{simulated}, err
}

// run answers requests until the input ends.
func run(ctx context.Context, settings Settings, in *wire.Reader, w io.Writer) error {
	lib, err := open(settings)
	if err != nil {
		return err
	}
	out := &output{w: w}
	spare := make(chan []int, 1)
	return life.All(ctx,
		life.Task{Name: "collections", Run: func(context.Context) error {
			return serve(lib, in, out, settings.Slow, spare)
		}},
		life.Task{Name: "events", Run: func(ctx context.Context) error {
			return measure.Events(ctx, lib, spare, out.now)
		}},
	)
}

// serve makes one collection for each request. While one takes long, it says
// which call it is in.
func serve(lib library, in *wire.Reader, out *output, slow time.Duration, spare chan<- []int) error {
	meter := measure.New(measure.Deps{Library: lib, Clock: time.Now, Send: out.add})
	watch := time.AfterFunc(time.Hour, func() {
		gpu, call := meter.Where()
		out.now(&wire.Slow{GPU: gpu, Call: call})
	})
	watch.Stop()
	var spared []int
	told := false
	for {
		m, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		request, ok := m.(*wire.Request)
		if !ok {
			continue
		}
		lib.work(request.PIDs)
		watch.Reset(slow)
		done := meter.Collect(request)
		watch.Stop()
		out.now(done)
		if now := slices.Concat(request.Skip, request.Last); done.Outcome != wire.Unsupported && (!told || !slices.Equal(now, spared)) {
			select {
			case spare <- now:
				spared, told = now, true
			default: // the next request says it again
			}
		}
		if out.err() != nil {
			return out.err()
		}
	}
}

// output gathers frames and writes them together. It is safe for concurrent
// use.
type output struct {
	mu     sync.Mutex
	w      io.Writer
	buf    []byte
	broken error
}

// add adds a message to what is written next.
func (o *output) add(m wire.Message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf = wire.Append(o.buf, m)
}

// now writes a message and all that was added before.
func (o *output) now(m wire.Message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf = wire.Append(o.buf, m)
	if _, err := o.w.Write(o.buf); err != nil && o.broken == nil {
		o.broken = err
	}
	o.buf = o.buf[:0]
}

func (o *output) err() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.broken
}
