// Package chaos breaks short runs of the reference trainer at random and looks
// at how they end. Its tests are the whole of it.
//
// A run has an agent, a supervisor and a trainer as processes of their own and
// no control plane. Blows fall on it at moments that a seed decides: SIGKILL of
// trainer, supervisor or agent, files of checkpoints that are torn, flipped or
// removed, a full disk, NaN in a gradient, NaN in a parameter. Whoever is
// killed comes back after a while, as a service manager or a scheduler would
// have it. The second store is a real S3 server, which is killed, refuses or
// hangs. Four things must hold of every run: training ends; no checkpoint that was
// damaged or holds NaN is resumed from; the final parameters are bit for bit those
// of a run that nobody disturbed; and afterwards all that is verified has a whole
// copy in the second store, and no copy there is damaged.
//
// One seed gives one plan. The moments are measured by the clock, so that what
// a blow meets differs a little from one playing to the next.
package chaos
