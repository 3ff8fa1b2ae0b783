// Package weigh answers [trainerv1.TrainerServiceClient]'s Weights: it keeps a
// balancer for each training process that asks, so that a trainer in any
// language has the methods of package balance.
//
// An answer is a function of the request where that carries the state of the
// answer before it; the balancer that is kept only saves building it anew. So
// nothing is lost with the agent, and a trainer that goes back to a checkpoint
// goes back with its weights.
package weigh

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/fault"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
	"github.com/vigil-ml/vigil/trainer/balance"
)

const (
	maxKept      = 1024 // processes; the one that was silent longest is forgotten
	maxNameBytes = 128
	maxSettings  = 16 << 10 // bytes
	floatBytes   = 8
)

// Weigher answers requests. Its method is safe for concurrent use; requests of
// one process are answered one after the other.
type Weigher struct {
	mu    sync.Mutex
	kept  map[string]*process
	calls uint64
}

// New makes a weigher that remembers nothing.
func New() *Weigher { return &Weigher{kept: map[string]*process{}} }

// process is what is kept of one training process.
type process struct {
	called uint64 // when, by the weigher's count; under its lock

	mu       sync.Mutex
	balancer *balance.Balancer
	config   uint32 // digest of what the balancer was made of
	seen     balance.Observation
	step     int64  // of the last answer
	state    []byte // of the balancer: of the last answer, or what a request carried since
}

// Weigh answers one request of the process that key names: the run, the attempt
// and the rank. It fails with [fault.Invalid] when the request is wrong, and has
// then learnt nothing.
func (w *Weigher) Weigh(key string, in *trainerv1.WeightsRequest) (*trainerv1.WeightsResponse, error) {
	if err := check(in); err != nil {
		return nil, err
	}
	p := w.process(key)
	p.mu.Lock()
	defer p.mu.Unlock()
	began, err := p.prepare(in)
	if err != nil {
		return nil, err
	}
	out := &trainerv1.WeightsResponse{Began: began}
	// A request that is made again, its answer lost, is not learnt from twice.
	if began || len(in.State) > 0 || in.Step != p.step {
		if err := p.weigh(in); err != nil {
			return nil, err
		}
	}
	out.Weights, out.State = slices.Clone(p.balancer.Weights()), slices.Clone(p.state)
	if n := len(in.Tasks); len(in.DotProducts) == n*n {
		if cosine := balance.LeastCosine(in.DotProducts, n); !math.IsNaN(cosine) {
			out.GradientCosine = &cosine
		}
	}
	return out, nil
}

func check(in *trainerv1.WeightsRequest) error {
	switch {
	case in.Step < 1:
		return fault.New(fault.Invalid, "step is %d; want the step that is about to be made, from 1", in.Step)
	case len(in.Settings) > maxSettings:
		return fault.New(fault.Invalid, "settings has %d bytes; at most %d", len(in.Settings), maxSettings)
	}
	names := make(map[string]bool, len(in.Tasks))
	for i, task := range in.Tasks {
		switch {
		case task == nil || task.Name == "" || len(task.Name) > maxNameBytes:
			return fault.New(fault.Invalid, "tasks[%d] needs a name of 1 to %d bytes", i, maxNameBytes)
		case names[task.Name]:
			return fault.New(fault.Invalid, "tasks[%d] has the name of another: %q", i, task.Name)
		}
		names[task.Name] = true
	}
	return nil
}

// process gives what is kept of a process, or room for it.
func (w *Weigher) process(key string) *process {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.kept[key]
	if p == nil {
		if len(w.kept) >= maxKept {
			w.forgetOne()
		}
		p = &process{}
		w.kept[key] = p
	}
	w.calls++
	p.called = w.calls
	return p
}

func (w *Weigher) forgetOne() {
	silent, least := "", uint64(math.MaxUint64)
	for key, p := range w.kept {
		if p.called < least {
			silent, least = key, p.called
		}
	}
	delete(w.kept, silent)
}

// prepare makes the process' balancer fit the request: what was asked before, in
// the state that the request carries. It tells whether that knows nothing yet.
func (p *process) prepare(in *trainerv1.WeightsRequest) (began bool, err error) {
	config := digest(in)
	if p.balancer == nil || p.config != config {
		made, err := build(in)
		if err != nil {
			return false, err
		}
		if err := restore(made, config, in.State); err != nil {
			return false, err
		}
		p.balancer, p.config, p.step, p.state = made, config, 0, slices.Clone(in.State)
	}
	if len(in.State) > 0 && string(in.State) != string(p.state) {
		if err := restore(p.balancer, config, in.State); err != nil {
			return false, err
		}
		p.step, p.state = 0, slices.Clone(in.State)
	}
	return len(in.State) == 0 && len(p.state) == 0, nil
}

func (p *process) weigh(in *trainerv1.WeightsRequest) error {
	p.seen.Step = in.Step
	p.seen.Losses, p.seen.Norms = p.seen.Losses[:0], p.seen.Norms[:0]
	for _, task := range in.Tasks {
		p.seen.Losses = append(p.seen.Losses, task.Loss)
		p.seen.Norms = append(p.seen.Norms, task.GradientNorm)
	}
	p.seen.Gram = in.DotProducts
	if _, err := p.balancer.Weigh(p.seen); err != nil {
		return err
	}
	p.step = in.Step
	p.state = binary.LittleEndian.AppendUint32(p.state[:0], p.config)
	for _, value := range p.balancer.State(nil) {
		p.state = binary.LittleEndian.AppendUint64(p.state, math.Float64bits(value))
	}
	return nil
}

// digest is over everything that a balancer is made of.
func digest(in *trainerv1.WeightsRequest) uint32 {
	sum := crc32.NewIEEE()
	_, _ = fmt.Fprintf(sum, "%q %q %d", in.Method, in.Settings, in.Seed) // a hash does not fail
	for _, task := range in.Tasks {
		_, _ = fmt.Fprintf(sum, " %q %d %x", task.Name, task.Kind, math.Float64bits(task.InitialLoss))
	}
	return sum.Sum32()
}

func build(in *trainerv1.WeightsRequest) (*balance.Balancer, error) {
	var file struct {
		Settings conf.Raw `yaml:"settings"`
	}
	if in.Settings != "" {
		text := "settings:\n  " + strings.ReplaceAll(in.Settings, "\n", "\n  ")
		if err := conf.Decode("settings", []byte(text), &file); err != nil {
			return nil, err
		}
	}
	tasks := make([]balance.Task, len(in.Tasks))
	for i, task := range in.Tasks {
		tasks[i] = balance.Task{Name: task.Name, InitialLoss: task.InitialLoss}
		if task.Kind == trainerv1.TaskKind_TASK_KIND_REGRESSION {
			tasks[i].Kind = balance.Regression
		}
	}
	return balance.New(in.Method, file.Settings, balance.Deps{Tasks: tasks, Seed: in.Seed})
}

// restore has a balancer go on from a state, which begins with the digest of
// what it was made of; no state changes nothing.
func restore(b *balance.Balancer, config uint32, state []byte) error {
	if len(state) == 0 {
		return nil
	}
	if len(state)%floatBytes != 4 || binary.LittleEndian.Uint32(state) != config {
		return fault.WithHint(fault.New(fault.Invalid, "the state of %d bytes is of another method, other settings, another seed or other tasks", len(state)),
			"send the state of the last answer to the same request, or none to begin anew")
	}
	state = state[4:]
	values := make([]float64, len(state)/floatBytes)
	for i := range values {
		values[i] = math.Float64frombits(binary.LittleEndian.Uint64(state[i*floatBytes:]))
		if math.IsNaN(values[i]) {
			return fault.New(fault.Invalid, "the state holds a value that is not a number")
		}
	}
	return b.Restore(values)
}
