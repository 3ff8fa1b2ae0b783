package vault

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

const (
	idleWait      = time.Hour
	sweepInterval = time.Hour
)

// sealAll is one worker: it seals what is ready, until ctx ends.
func (v *Vault) sealAll(ctx context.Context) error {
	for ctx.Err() == nil {
		next, wait := v.next()
		if next != nil {
			v.process(ctx, next)
			continue
		}
		retry := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-v.wake:
		case <-retry.C:
		}
		retry.Stop()
	}
	return nil
}

func (v *Vault) enqueue(s *staging) {
	v.mu.Lock()
	v.queue = append(v.queue, s)
	v.mu.Unlock()
	v.nudge()
}

// next gives a worker the first staging that is ready to be sealed, or how long
// to wait for one. Those of one rank are sealed one after another, in the order
// in which they were committed.
func (v *Vault) next() (*staging, time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	now, wait := v.deps.Clock(), idleWait
	busy := map[key]bool{} // ranks of runs
	for _, s := range v.queue {
		if s.sealing {
			busy[s.of()] = true
		}
	}
	for _, s := range v.queue {
		if busy[s.of()] {
			continue
		}
		d := s.notBefore.Sub(now)
		if d <= 0 {
			s.sealing = true
			return s, 0
		}
		wait = min(wait, d)
	}
	return nil, wait
}

// process brings one staging to its end. What fails is tried again later, since
// a full disk may empty itself, and at last given up: its files stay, so that
// the next start can try once more. What can never succeed is removed.
func (v *Vault) process(ctx context.Context, s *staging) {
	err := v.sealAndVerify(ctx, s)
	switch {
	case err == nil:
		v.sealed.WithLabelValues("verified").Inc()
		v.dropRestored(s.RunID, s.Rank) // who has saved since has read it
		v.finish(s, true)
		select {
		case v.verified <- struct{}{}:
		default:
		}
		v.keep(ctx, s.RunID)
	case ctx.Err() != nil:
	case !fault.Is(err, fault.Invalid) && s.tries < v.config.Retries:
		v.mu.Lock()
		delay := v.config.RetryDelay << (2 * s.tries)
		s.tries++
		s.notBefore = v.deps.Clock().Add(delay)
		s.sealing = false
		v.mu.Unlock()
		v.deps.Log.Warn("seal checkpoint; it is tried again", "run", s.RunID, "checkpoint", s.CheckpointID,
			"rank", s.Rank, "after", delay, "error", err)
	default:
		v.deps.Log.Error("seal checkpoint", "run", s.RunID, "checkpoint", s.CheckpointID, "rank", s.Rank, "error", err)
		v.sealed.WithLabelValues("failed").Inc()
		v.tell(ctx, s, commonv1.CheckpointState_CHECKPOINT_STATE_FAILED, func(p *commonv1.CheckpointProgress) {
			p.Error = err.Error()
		})
		v.finish(s, fault.Is(err, fault.Invalid))
	}
}

// finish takes a staging out of the queue and tells those who wait for it.
func (v *Vault) finish(s *staging, remove bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.queue = slices.DeleteFunc(v.queue, func(other *staging) bool { return other == s })
	if remove {
		v.keepSpares(s)
		v.discard(s)
	}
	delete(v.staged, s.key())
	close(v.changed)
	v.changed = make(chan struct{})
	v.nudge() // for the rank's next one
}

// nudge has a worker look.
func (v *Vault) nudge() {
	select {
	case v.wake <- struct{}{}:
	default:
	}
}

// waitSealed waits until no committed checkpoint of a run is on its way, for
// as long as the configuration and ctx allow. It gives the ids that still are.
func (v *Vault) waitSealed(ctx context.Context, runID string) []string {
	ctx, cancel := context.WithTimeout(ctx, v.config.ResolveWait)
	defer cancel()
	for {
		v.mu.Lock()
		var waiting []string
		for k, s := range v.staged {
			if k.runID == runID && s.committed {
				waiting = append(waiting, k.checkpointID)
			}
		}
		changed := v.changed
		v.mu.Unlock()
		if len(waiting) == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			slices.Sort(waiting)
			return slices.Compact(waiting)
		}
	}
}

// scan takes up what an earlier agent left in the staging roots.
func (v *Vault) scan() error {
	for _, root := range []string{v.memory, v.disk} {
		if root == "" {
			continue
		}
		names, err := fs.Glob(os.DirFS(root), "*/*/rank-*")
		if err != nil {
			return fmt.Errorf("scan %s: %w", root, err)
		}
		for _, name := range names {
			dir := filepath.Join(root, name)
			s, err := readStaging(root, dir)
			if err != nil {
				v.scanLost(dir, err)
				continue
			}
			v.staged[s.key()] = s
			if s.committed {
				v.queue = append(v.queue, s)
			}
		}
	}
	slices.SortFunc(v.queue, func(a, b *staging) int { return a.Committed.Compare(b.Committed) })
	if n := len(v.queue); n > 0 {
		v.deps.Log.Info("seal checkpoints that an earlier agent left", "count", n)
	}
	v.clearSpares()
	v.clearGone()
	v.sweep()
	return nil
}

// scanLost deals with a staging directory whose ticket cannot be read: an old
// one is of no use to anybody.
func (v *Vault) scanLost(dir string, cause error) {
	v.deps.Log.Warn("read staging directory; it is left alone", "directory", dir, "error", cause)
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() || v.deps.Clock().Sub(info.ModTime()) < v.config.AbandonedAfter {
		return
	}
	if err := v.deps.FS.RemoveAll(dir); err != nil {
		v.deps.Log.Warn("remove staging directory", "directory", dir, "error", err)
	}
}

// sweep removes staging directories that nobody will commit any more.
func (v *Vault) sweep() {
	v.sweepRestored()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.dropSpares(func(_ key, kept *spares) bool { return v.deps.Clock().Sub(kept.kept) > spareTime })
	for _, s := range v.staged {
		if s.committed || s.committing || v.deps.Clock().Sub(lastWrite(s)) < v.config.AbandonedAfter {
			continue
		}
		v.deps.Log.Info("remove a checkpoint that was begun and never committed",
			"run", s.RunID, "checkpoint", s.CheckpointID, "rank", s.Rank, "begun", s.Begun)
		v.discard(s)
	}
}

// lastWrite is when something last happened in a staging directory.
func lastWrite(s *staging) time.Time {
	last := s.Begun
	_ = s.walk(func(_ string, info os.FileInfo) error { // what cannot be read has no time
		if info.ModTime().After(last) {
			last = info.ModTime()
		}
		return nil
	})
	return last
}
