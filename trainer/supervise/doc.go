// Package supervise runs a training command until it is done: it restarts what
// fails, passes on what it is told, and leaves nothing behind.
//
// The supervision of a run is a machine of states ([State]). An attempt is
// launched and runs; it is saved, terminated and killed when it has to end; what
// is left of it is swept; what ended it is concluded from evidence (package
// diagnose), what follows is decided by the policy of that kind of failure
// (package policy), and told as an event with the evidence.
//
// The command runs in a process group of its own; its output is passed through,
// read for signs of what went wrong, and kept (package output). What the
// supervisor does with signals:
//
//   - SIGTERM, SIGINT, SIGHUP: the agent is asked how long saving takes here, and
//     to have the run saved and stopped where the grace period is long enough for
//     that; otherwise the last checkpoint is confirmed. The command has the grace
//     period to end by itself but for its last part, then its group gets SIGTERM,
//     and at the end of it SIGKILL. A second signal goes straight to the next of
//     these. There is no restart.
//   - SIGUSR1, the warning that a scheduler gives before it takes the machine
//     away: the agent is asked to have the run saved, and training goes on to
//     use the time that is left; SIGTERM will follow.
//
// A cloud's notice (package preempt) and the end of the allocation are as
// SIGTERM, with the deadline that they name. When no agent can do it, because
// none answers or it knows no process of the run, the command itself gets the
// signal and may act on it; only the command, not its group: helpers that load
// data should not die first.
//
// After an attempt whatever is left of it is killed: its group, and on Linux who
// left the group but has the command's environment, descends from one who has,
// or became the supervisor's child as an orphan. What a supervisor that was
// killed left behind the next one on the machine ends.
package supervise
