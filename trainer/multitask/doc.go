// Package multitask is the reference trainer: a multi-task learner on one core,
// in pure Go, with every hook that a trainer has.
//
// A [Config] says what is learnt: the data (package data), the model (package
// network), how the tasks weigh (package balance) and what the optimizer does
// (package optimize). [Defaults] is a true multi-task problem: two handwritten
// digits lie over each other, and a shared encoder (96 -> 128 ReLU -> 64 ReLU)
// feeds three heads: which digit is on the left, which on the right, and how much
// ink there is.
//
// Training is deterministic: on one architecture, parameters after N steps
// are the same bit for bit for the same seed, whatever GOMAXPROCS is, however
// many workers make batches, and wherever it was interrupted and resumed. Two
// properties hold that up. All products keep to the kernels of gonum whose order
// of additions depends on nothing but the sizes. And a step works on copies of
// what changes from step to step - position in the data, weights of the tasks,
// running statistics - which count only when the step is applied; a step that is
// stopped leaves no trace.
package multitask
