package agent

import (
	"context"
	"time"

	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/systemd"
)

// readyTries is how often it is looked whether trainers can reach the agent.
const readyTries = 20 * time.Millisecond

// manage tells the service manager that the agent is ready, that it lives, and
// that it stops. It lives while trainers can reach it and its spools answer:
// an agent that hangs is restarted by the manager.
func (a *agent) manage(ctx context.Context) error {
	manager := systemd.FromEnvironment()
	tell := func(state string) {
		if err := manager.Tell(state); err != nil {
			a.log.Warn("service manager", "error", err)
		}
	}
	for a.alive() != nil {
		if !life.Sleep(ctx, readyTries) {
			return nil
		}
	}
	tell(systemd.Ready)
	defer tell(systemd.Stopping)
	if manager.Watchdog() == 0 {
		<-ctx.Done()
		return nil
	}
	for life.Sleep(ctx, manager.Watchdog()/2) {
		if err := a.alive(); err != nil {
			a.log.Error("agent does not tell the service manager that it lives", "error", err)
			continue
		}
		tell(systemd.Alive)
	}
	return nil
}

// alive tells whether the parts that all else hangs on answer. A spool whose
// lock is held for ever does not return, which says the same.
func (a *agent) alive() error {
	_, _ = a.events.Stats(), a.samples.Stats()
	return a.reachable()
}
