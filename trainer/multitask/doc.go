// Package multitask is the reference trainer: a true multi-task problem that
// trains on one core, in pure Go, with every hook that a trainer has.
//
// Two handwritten digits lie over each other. A shared encoder (96 -> 128 ReLU
// -> 64 ReLU) feeds three heads: which digit is on the left, which on the
// right, and how much ink there is.
//
// Training is deterministic: on one architecture, parameters after N steps
// are the same bit for bit for the same seed, whatever GOMAXPROCS is and
// wherever it was interrupted and resumed. Two properties hold that up. All
// products go through [gemm], which keeps to the kernels of gonum whose order
// of additions depends on nothing but the sizes. And a step draws its batch
// from a copy of the random state, which becomes the state only when the step
// is applied; a step that is stopped leaves no trace.
package multitask
