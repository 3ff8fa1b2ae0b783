package uplink

import (
	"context"

	"github.com/vigil-ml/vigil/internal/life"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
)

// commandWorkers is how many commands are done at once: one that is slow does
// not hold up an emergency of another run.
const commandWorkers = 4

// accept queues a command and never blocks, so that acknowledgements go on.
func (u *Uplink) accept(command *agentv1.Command) {
	select {
	case u.queue <- command:
	default:
		u.refused.Inc()
		u.deps.Log.Warn("command queue is full: command refused, the control plane sends it again",
			"command", command.CommandId)
	}
}

// execute does commands from the queue until ctx ends. A command that panics
// takes nothing with it.
func (u *Uplink) execute(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case command := <-u.queue:
			group := life.NewGroup(ctx)
			group.Go("command "+command.CommandId, func(ctx context.Context) error {
				u.deps.Commands.Execute(ctx, command)
				return nil
			})
			if err := group.Wait(); err != nil {
				u.deps.Log.Error("execute command", "err", err)
			}
		}
	}
}
