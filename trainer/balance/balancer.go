package balance

import (
	"fmt"
	"math"

	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/fault"
)

// maxTasks bounds what a method costs: the dearest grow with its cube.
const maxTasks = 256

// Balancer is a method with its tasks. It checks what the method is told, so
// that bad input changes nothing. It is used by one goroutine.
type Balancer struct {
	name    string
	method  Method
	tasks   []Task
	weights []float64
}

// New makes a balancer of the named method with settings from a configuration
// file. It fails with [fault.Invalid] when there is no such method, a setting
// is wrong, or the tasks are none or too many.
func New(name string, settings conf.Raw, deps Deps) (*Balancer, error) {
	if n := len(deps.Tasks); n < 1 || n > maxTasks {
		return nil, fault.New(fault.Invalid, "balance tasks: there are %d; want 1 to %d", n, maxTasks)
	}
	for _, task := range deps.Tasks {
		if !(task.InitialLoss >= 0) || math.IsInf(task.InitialLoss, 0) {
			return nil, fault.New(fault.Invalid, "balance tasks: the initial loss of %q is %v; want a number over 0, or 0 for that of the first step",
				task.Name, task.InitialLoss)
		}
	}
	method, err := Methods().Build(name, settings, deps)
	if err != nil {
		return nil, fmt.Errorf("balance tasks with %s: %w", name, err)
	}
	b := &Balancer{name: name, method: method, tasks: deps.Tasks, weights: make([]float64, len(deps.Tasks))}
	for i := range b.weights {
		b.weights[i] = 1
	}
	return b, nil
}

// Name is the method's name.
func (b *Balancer) Name() string { return b.name }

// Tasks is the tasks, in the order of the weights.
func (b *Balancer) Tasks() []Task { return b.tasks }

// Needs is what Weigh must be told.
func (b *Balancer) Needs() Need { return b.method.Needs() }

// Weights is the weights of the last step, 1 for each task before the first.
// They are valid until the next Weigh.
func (b *Balancer) Weights() []float64 { return b.weights }

// Weigh gives the weights of the step that is about to be made: finite and not
// negative, but for those of IMTL-G, whose weights may be. They are valid until
// the next call. After an error, of kind [fault.Invalid], nothing was learnt
// and the weights are those of before.
func (b *Balancer) Weigh(seen Observation) ([]float64, error) {
	if err := b.check(seen); err != nil {
		return nil, fmt.Errorf("weigh tasks of step %d: %w", seen.Step, err)
	}
	b.method.Weigh(b.weights, seen)
	return b.weights, nil
}

func (b *Balancer) check(seen Observation) error {
	tasks := len(b.tasks)
	if err := b.numbers("losses", seen.Losses, tasks, math.Inf(-1)); err != nil {
		return err
	}
	switch b.method.Needs() {
	case Norms:
		return b.numbers("gradient norms", seen.Norms, tasks, 0)
	case Gram:
		if err := b.numbers("dot products", seen.Gram, tasks*tasks, math.Inf(-1)); err != nil {
			return err
		}
		for i := range tasks {
			if seen.Gram[i*tasks+i] < 0 {
				return fault.New(fault.Invalid, "the dot product of the gradient of %q with itself is %v; it cannot be negative",
					b.tasks[i].Name, seen.Gram[i*tasks+i])
			}
		}
	}
	return nil
}

// numbers checks that there are as many values as there must be, each a number
// of at least least.
func (b *Balancer) numbers(what string, values []float64, want int, least float64) error {
	if len(values) != want {
		return fault.New(fault.Invalid, "%s needs %s: there are %d %s, want %d", b.name, b.method.Needs(), len(values), what, want)
	}
	for i, value := range values {
		if math.IsNaN(value) || math.IsInf(value, 0) || value < least {
			return fault.New(fault.Invalid, "%s of %q: %v is not a usable number", what, b.tasks[i%len(b.tasks)].Name, value)
		}
	}
	return nil
}

// State appends what the balancer has learnt, with the weights of the last step,
// to dst, and gives that back. Its length does not change from step to step.
func (b *Balancer) State(dst []float64) []float64 { return append(b.method.State(dst), b.weights...) }

// Restore takes up a State. It fails with [fault.Invalid] when that is of
// another method or of other tasks, and nothing changes.
func (b *Balancer) Restore(state []float64) error {
	learnt := len(b.method.State(nil))
	if want := learnt + len(b.weights); len(state) != want {
		return fault.New(fault.Invalid, "restore the weights of %s: the state has %d numbers, want %d; it is of another method or of other tasks",
			b.name, len(state), want)
	}
	b.method.Restore(state[:learnt])
	copy(b.weights, state[learnt:])
	return nil
}
