package incident

import (
	"context"
	"time"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/life"
)

const (
	// lookEvery is how often is looked for what has expired or stays away.
	lookEvery = 200 * time.Millisecond
	// expiredBatch is how many incidents expire in one transaction.
	expiredBatch = 256
)

// Run ends the incidents that nobody spoke of in time, and opens those about
// what stays away, until ctx ends. An error of the store is logged and tried
// again.
func (e *Engine) Run(ctx context.Context) error {
	away := false
	for life.Sleep(ctx, lookEvery) {
		err := e.look(ctx)
		if ctx.Err() == nil && err != nil && !away {
			e.deps.Log.Warn("incidents wait: the store does not answer; trying again", "error", err)
		}
		away = err != nil
	}
	return nil
}

// look writes only when there is something to write.
func (e *Engine) look(ctx context.Context) error {
	var expired []store.IncidentRecord
	err := e.deps.Store.View(ctx, func(tx *store.Tx) (err error) {
		expired, err = tx.ExpiredIncidents(e.deps.Clock(), 1)
		return err
	})
	if err != nil || (len(expired) == 0 && len(e.config.Expect) == 0) {
		return err
	}
	return e.deps.Store.Update(ctx, func(tx *store.Tx) error {
		expired, err := tx.ExpiredIncidents(e.deps.Clock(), expiredBatch)
		if err != nil {
			return err
		}
		for _, record := range expired {
			reason := "Nothing new was heard of it for a long time."
			if record.Fingerprint != "" {
				reason = "Nobody said again that it fires."
			}
			if err := e.resolve(ctx, tx, record.Expires, record, reason, ""); err != nil {
				return err
			}
		}
		return e.missing(ctx, tx)
	})
}
