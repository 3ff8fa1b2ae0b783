package metrics

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
)

// snapshotsDir is where snapshots are, below [Config.Dir], as in Prometheus.
const snapshotsDir = "snapshots"

// snapshot answers /api/v1/admin/tsdb/snapshot: it makes one and names it.
func (db *DB) snapshot(r *http.Request) (answer, error) {
	skipHead := false
	if text := r.Form.Get("skip_head"); text != "" {
		var err error
		if skipHead, err = strconv.ParseBool(text); err != nil {
			return answer{}, badParameter("skip_head", err)
		}
	}
	name, err := db.Snapshot(r.Context(), !skipHead)
	return answer{data: map[string]string{"name": name}}, err
}

// Snapshot writes all samples, as they are now, as blocks of a TSDB into a new
// directory below [Config.Dir]/snapshots, and gives its name; others go on
// meanwhile. Without head, what is in memory and in the log only, the samples of
// the last two to three hours, is left out. Blocks are hard links: a snapshot
// takes up little until they are let go of. Whoever asked for it removes it.
func (db *DB) Snapshot(ctx context.Context, head bool) (name string, err error) {
	if head {
		// A snapshot has what came in the order of time; what came late becomes
		// blocks first.
		if err := db.tsdb.CompactOOOHead(ctx); err != nil {
			return "", fmt.Errorf("write samples that came late as blocks: %w", err)
		}
	}
	name = db.clock().UTC().Format("20060102T150405Z0700-") + rand.Text()[:8]
	dir := filepath.Join(db.config.Dir, snapshotsDir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make directory of snapshot: %w", err)
	}
	if err := db.tsdb.Snapshot(dir, head); err != nil {
		_ = os.RemoveAll(dir)
		return "", fmt.Errorf("write snapshot of samples: %w", err)
	}
	return name, nil
}
