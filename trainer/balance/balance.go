// Package balance decides how much each task of a multi-task model counts: one
// file a method, after the paper that it names.
//
// Every method, whether it weighs losses or combines gradients, comes down to
// one weight for each task and step: the shared parameters get the gradient
//
//	sum over i of weight_i * gradient_i
//
// What the methods that combine gradients need to know of them is their Gram
// matrix, the dot products of every two; all of PCGrad, CAGrad, MGDA, IMTL-G and
// Nash-MTL are functions of it. So a method is given numbers and never vectors,
// costs microseconds, allocates nothing, and serves a trainer in any language.
//
// A method's weights depend on nothing but its settings, what it has observed,
// and a seed: a training that resumes with [Method.Restore] goes on exactly.
package balance

import "fmt"

// Need is what a method must be told besides the losses.
type Need uint8

const (
	// Losses alone are enough.
	Losses Need = iota
	// Norms of the tasks' gradients on the shared parameters.
	Norms
	// Gram is the dot products of the tasks' gradients on the shared parameters.
	Gram
)

// String names what is needed, for people.
func (n Need) String() string {
	switch n {
	case Losses:
		return "losses"
	case Norms:
		return "losses and gradient norms"
	case Gram:
		return "losses and the gradients' dot products"
	}
	return fmt.Sprintf("Need(%d)", uint8(n))
}

// Kind is what a task predicts.
type Kind uint8

const (
	// Classification has a cross-entropy as its loss.
	Classification Kind = iota
	// Regression has a squared or absolute error as its loss.
	Regression
)

// Task is one task of the model.
type Task struct {
	Name string
	Kind Kind
	// InitialLoss is what the loss counts as having been before training; 0: what
	// it is at the first step. The logarithm of the number of classes is the
	// usual choice for a classifier.
	InitialLoss float64
}

// Deps is what code injects into a method.
type Deps struct {
	Tasks []Task // at least one
	Seed  uint64 // of methods that draw
}

// Observation is what is known before an optimizer step.
type Observation struct {
	// Step is the step that is about to be made, from 1. It grows by one, but
	// after a resume from an earlier step.
	Step int64
	// Losses is each task's loss, unweighted.
	Losses []float64
	// Norms is the L2 norm of each task's gradient on the shared parameters (or on
	// the last shared layer), unweighted. Nil where they were not measured.
	Norms []float64
	// Gram is the dot products of those gradients, row by row: T*T values for T
	// tasks. Nil where they were not measured.
	Gram []float64
}

// Method is one way to weigh. It is used by one goroutine.
type Method interface {
	// Needs is what Weigh must be told.
	Needs() Need
	// Weigh sets the weights of the step and learns from what was seen. A
	// [Balancer] calls it, and only with what has been checked.
	Weigh(weights []float64, seen Observation)
	// State appends everything that Weigh has learnt to dst, and gives that back;
	// a method that learns nothing appends nothing. The method does not keep it.
	State(dst []float64) []float64
	// Restore takes up a State of a method with the same settings and tasks. The
	// length has been checked against that of State.
	Restore(state []float64)
}

// stateless is a method that learns nothing.
type stateless struct{}

// State appends nothing.
func (stateless) State(dst []float64) []float64 { return dst }

// Restore has nothing to take up.
func (stateless) Restore([]float64) {}
