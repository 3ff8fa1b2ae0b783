package export

import (
	"context"
	"math"
	"time"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
)

// pruneEvery is how often records that all exporters have had are dropped.
const pruneEvery = time.Minute

// Set is all exporters.
type Set []*Runner

// Run runs every exporter until ctx ends.
func (s Set) Run(ctx context.Context) error {
	if len(s) == 0 {
		<-ctx.Done()
		return nil
	}
	group := life.NewGroup(ctx)
	for _, r := range s {
		group.Go("exporter "+r.deps.Name, r.Run)
	}
	group.Go("prune export records", func(ctx context.Context) error {
		for life.Sleep(ctx, pruneEvery) {
			if err := s.prune(ctx); err != nil && ctx.Err() == nil {
				s[0].deps.Log.Warn("records that were exported are not dropped", "error", err)
			}
		}
		return nil
	})
	return group.Wait()
}

// telemetryBytes bounds what control planes say of themselves while an exporter
// does not take it; the oldest goes.
const telemetryBytes = 256 << 20

// prune drops the records that every exporter that takes any has had.
func (s Set) prune(ctx context.Context) error {
	var dropped int64
	err := s[0].deps.Store.Update(ctx, func(tx *store.Tx) (err error) {
		least := uint64(math.MaxInt64)
		for _, r := range s {
			if !r.takes(recordStreams()...) {
				continue
			}
			cursor, err := tx.Cursor(CursorName(r.deps.Name, sourceRecords))
			if err != nil {
				return err
			}
			least = min(least, cursor)
		}
		if err := tx.DropExportRecords(least); err != nil {
			return err
		}
		dropped, err = tx.BoundTelemetry(telemetryBytes)
		return err
	})
	if err == nil {
		s[0].deps.Metrics.telemetryLost.WithLabelValues("bound").Add(float64(dropped))
	}
	return err
}

// Statuses gives how each is, in the order of the configuration.
func (s Set) Statuses(ctx context.Context) ([]Status, error) {
	var all []Status
	for _, r := range s {
		status, err := r.Status(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, status)
	}
	return all, nil
}

// Replay replays the dead letters of one exporter. It fails with
// [fault.NotFound] when there is none of that name.
func (s Set) Replay(ctx context.Context, name string) (Replayed, error) {
	for _, r := range s {
		if r.deps.Name == name {
			return r.Replay(ctx)
		}
	}
	return Replayed{}, fault.New(fault.NotFound, "replay dead letters: there is no exporter %q", name)
}
