// Package optimize turns gradients into updates: SGD with momentum, Adam and
// AdamW, on flat lists of float32, and the schedules of their learning rate.
package optimize

import (
	"math"

	"github.com/vigil-ml/vigil/internal/fault"
)

// Kinds of optimizers.
const (
	SGD   = "sgd"
	Adam  = "adam"
	AdamW = "adamw"
)

// Config is what users say about the optimizer.
type Config struct {
	// Kind is sgd, adam or adamw.
	Kind string `yaml:"kind"`
	// Momentum is SGD's; 0 to below 1. Nesterov has it look ahead.
	Momentum float64 `yaml:"momentum"`
	Nesterov bool    `yaml:"nesterov"`
	// Beta1 and Beta2 are the memories of Adam's moments; 0 to below 1.
	Beta1 float64 `yaml:"beta1"`
	Beta2 float64 `yaml:"beta2"`
	// Epsilon is added to the root of Adam's second moment; over 0.
	Epsilon float64 `yaml:"epsilon"`
	// WeightDecay is added to the gradient, times the parameter; with AdamW it
	// shrinks the parameter itself (Loshchilov and Hutter, ICLR 2019). At least 0.
	WeightDecay float64 `yaml:"weight_decay"`
}

// Defaults is Adam as its paper has it.
func Defaults() Config {
	return Config{Kind: Adam, Momentum: 0.9, Beta1: 0.9, Beta2: 0.999, Epsilon: 1e-8}
}

// Check reports settings that cannot work.
func (c Config) Check(report func(key, format string, args ...any)) {
	if c.Kind != SGD && c.Kind != Adam && c.Kind != AdamW {
		report("kind", "is %q; want %s, %s or %s", c.Kind, SGD, Adam, AdamW)
	}
	for _, share := range []struct {
		key   string
		value float64
	}{{"momentum", c.Momentum}, {"beta1", c.Beta1}, {"beta2", c.Beta2}} {
		if !(share.value >= 0 && share.value < 1) {
			report(share.key, "is %v; want 0 to below 1", share.value)
		}
	}
	if !(c.Epsilon > 0) || math.IsInf(c.Epsilon, 0) {
		report("epsilon", "is %v; want a number over 0", c.Epsilon)
	}
	if !(c.WeightDecay >= 0) || math.IsInf(c.WeightDecay, 0) {
		report("weight_decay", "is %v; want a number of at least 0", c.WeightDecay)
	}
}

// Optimizer is an optimizer and what it remembers. It is for one goroutine.
type Optimizer struct {
	config Config
	slots  [][]float32
}

// New makes an optimizer of that many parameters. It fails with [fault.Invalid]
// when the configuration is wrong.
func New(config Config, parameters int) (*Optimizer, error) {
	var wrong error
	config.Check(func(key, format string, args ...any) {
		wrong = fault.New(fault.Invalid, "make optimizer: "+key+" "+format, args...)
	})
	o := &Optimizer{config: config}
	for range o.Slots() {
		o.slots = append(o.slots, make([]float32, parameters))
	}
	return o, wrong
}

// Slots names what the optimizer remembers of each parameter.
func (o *Optimizer) Slots() []string {
	switch {
	case o.config.Kind != SGD:
		return []string{"mean", "variance"}
	case o.config.Momentum > 0:
		return []string{"momentum"}
	}
	return nil
}

// State is what is remembered, in the order of Slots: views that a checkpoint
// saves and fills.
func (o *Optimizer) State() [][]float32 { return o.slots }

// Apply makes one update; step counts from 1. It allocates nothing.
func (o *Optimizer) Apply(parameters, gradients []float32, step int64, rate float64) {
	if o.config.Kind == SGD {
		o.descend(parameters, gradients, step, rate)
	} else {
		o.adam(parameters, gradients, step, rate)
	}
}

// adam: Kingma and Ba, ICLR 2015, algorithm 1, with both corrections folded into
// the rate as in the end of its section 2.
func (o *Optimizer) adam(parameters, gradients []float32, step int64, learningRate float64) {
	mean, variance := o.slots[0][:len(parameters)], o.slots[1][:len(parameters)]
	gradients = gradients[:len(parameters)]
	c := o.config
	rate := float32(learningRate * math.Sqrt(1-math.Pow(c.Beta2, float64(step))) / (1 - math.Pow(c.Beta1, float64(step))))
	beta1, rest1, beta2, rest2 := float32(c.Beta1), float32(1-c.Beta1), float32(c.Beta2), float32(1-c.Beta2)
	epsilon := float32(c.Epsilon)
	decay, shrink := float32(c.WeightDecay), float32(1)
	if c.Kind == AdamW {
		decay, shrink = 0, float32(1-learningRate*c.WeightDecay)
	}
	for i, g := range gradients {
		p := parameters[i]
		if c.WeightDecay != 0 {
			g += decay * p
			p *= shrink
		}
		mean[i] = beta1*mean[i] + rest1*g
		variance[i] = beta2*variance[i] + rest2*g*g
		parameters[i] = p - rate*mean[i]/(float32(math.Sqrt(float64(variance[i])))+epsilon)
	}
}

// descend: with momentum m, v = m v + g, and p -= rate v; the first step takes g
// itself, as PyTorch does.
func (o *Optimizer) descend(parameters, gradients []float32, step int64, learningRate float64) {
	rate, decay, momentum := float32(learningRate), float32(o.config.WeightDecay), float32(o.config.Momentum)
	for i, g := range gradients {
		g += decay * parameters[i]
		if momentum > 0 {
			v := g
			if step > 1 {
				v = momentum*o.slots[0][i] + g
			}
			o.slots[0][i] = v
			if o.config.Nesterov {
				g += momentum * v
			} else {
				g = v
			}
		}
		parameters[i] -= rate * g
	}
}

// Clip scales gradients whose L2 norm is over most down to it; 0 never
// does.
func Clip(gradients []float32, norm, most float64) {
	if most == 0 || !(norm > most) {
		return
	}
	by := float32(most / norm)
	for i := range gradients {
		gradients[i] *= by
	}
}
