package controlplane

import (
	"context"
	"log/slog"
	"strings"

	"github.com/vigil-ml/vigil/controlplane/ingest"
	"github.com/vigil-ml/vigil/internal/conf"
)

// reloader takes other configurations while the control plane runs.
type reloader struct {
	written Config // as the user wrote it
	reloads <-chan Config
}

// run takes configurations until ctx ends. What agents are told of their
// collectors changes at once; the rest is named, and waits for a restart.
func (r reloader) run(ctx context.Context, frames *ingest.Service, log *slog.Logger) error {
	for {
		var config Config
		select {
		case <-ctx.Done():
			return nil
		case config = <-r.reloads:
		}
		changed := frames.SetCollectors(config.Ingest.Collectors)
		log.Info("configuration is reloaded", "collectors of agents", len(config.Ingest.Collectors), "changed", changed)
		if waiting := waits(r.written, config); len(waiting) > 0 {
			log.Warn("some changes wait for a restart of the control plane; until then the old values hold", "keys", strings.Join(waiting, ", "))
		}
	}
}

// waits gives the keys of the parts that changed and cannot without a restart.
func waits(before, after Config) (keys []string) {
	before.Ingest.Collectors, after.Ingest.Collectors = nil, nil
	return conf.Differ(before, after)
}
