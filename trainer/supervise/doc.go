// Package supervise runs a training command until it is done: it restarts what
// fails, passes on what it is told, and leaves nothing behind.
//
// The command runs in a process group of its own with its output passed
// through unchanged. What the supervisor does with signals:
//
//   - SIGTERM, SIGINT, SIGHUP: the agent is asked to have the run saved and
//     stopped. The command has the grace period to end by itself, then its
//     group gets SIGTERM, and a little later SIGKILL. A second signal goes
//     straight to the next of these. There is no restart.
//   - SIGUSR1, the warning that a scheduler gives before it takes the machine
//     away: the agent is asked to have the run saved, and training goes on to
//     use the time that is left; SIGTERM will follow.
//
// When no agent can do it, because none answers or it knows no process of the
// run, the command itself gets the signal and may act on it; only the command,
// not its group: helpers that load data should not die first.
//
// After an attempt whatever is left of the group is killed. A process that
// left the group by itself (setsid) is not found.
package supervise
