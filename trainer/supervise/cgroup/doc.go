// Package cgroup gives the processes of a training command a control group of
// their own, where the machine lets the supervisor make one.
//
// It is good for two things. Nobody leaves it: a process that called setsid, and
// whoever descends from it, is found and killed with the others. And the kernel
// counts there whom it killed for want of memory, so that this is known and not
// guessed from a SIGKILL.
//
// Version 2 is used for both where it has the memory controller. Where memory is
// with version 1, as in a hybrid set-up, that is used for memory and version 2,
// if it is there, for the rest. What is not there is left out, and why is said.
package cgroup
