package export

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/vigil-ml/vigil/controlplane/store"
)

// replayBatch is how many dead letters are sent together.
const replayBatch = 500

// Replayed is what a replay came to.
type Replayed struct {
	Taken   int // they are there now, or were already
	Refused int // they are dead letters again
}

// Replay sends all dead letters once more. Those that are refused again are kept
// again. It fails when the exporter cannot be reached; nothing is lost then, and
// the next replay begins with what this one had left.
func (r *Runner) Replay(ctx context.Context) (Replayed, error) {
	r.replays.Lock()
	defer r.replays.Unlock()
	var done Replayed
	path, err := r.dead.take()
	if err != nil || path == "" {
		return done, err
	}
	var batch []Document
	send := func() error {
		if len(batch) == 0 {
			return nil
		}
		verdicts, err := r.deps.Exporter.Export(ctx, batch)
		if err != nil {
			return fmt.Errorf("replay dead letters of %s: %w", r.deps.Name, err)
		}
		again, err := r.sort(batch, verdicts)
		if err != nil && len(again) == 0 {
			return err
		}
		if err := r.bury(lettersOf(again, err, r.deps.Clock())); err != nil {
			return err
		}
		for _, v := range verdicts {
			if v.Outcome == Taken || v.Outcome == Repeated {
				done.Taken++
			} else {
				done.Refused++
			}
		}
		batch = batch[:0]
		return nil
	}
	err = eachLetter(path, func(letter deadLetter) error {
		if batch = append(batch, letter.document()); len(batch) < replayBatch {
			return nil
		}
		return send()
	})
	if err == nil {
		err = send()
	}
	if err == nil {
		err = os.Remove(path)
	}
	r.deps.Metrics.dead.WithLabelValues(r.deps.Name).Set(float64(r.dead.size()))
	return done, err
}

func lettersOf(documents []Document, why error, now time.Time) []deadLetter {
	letters := make([]deadLetter, len(documents))
	for i, d := range documents {
		letters[i] = letterOf(d, why.Error(), now)
	}
	return letters
}

// Status is how an exporter is.
type Status struct {
	Name, Kind string
	Failing    string    // what it said last; empty while it is well
	Since      time.Time // when it began to fail; zero while it is well
	Lag        time.Duration
	DeadBytes  int64
	Dead       int               // dead letters
	Cursors    map[string]uint64 // by source
}

// Status gives how the exporter is.
func (r *Runner) Status(ctx context.Context) (Status, error) {
	s := Status{Name: r.deps.Name, Kind: r.deps.Kind, DeadBytes: r.dead.size(), Cursors: map[string]uint64{}}
	for _, path := range []string{r.dead.current, r.dead.older, r.dead.replays} {
		n, err := countLines(path)
		if err != nil {
			return s, err
		}
		s.Dead += n
	}
	r.mu.Lock()
	for _, l := range r.lanes {
		if l.failing != nil && (s.Failing == "" || l.since.Before(s.Since)) {
			s.Failing, s.Since = l.failing.Error(), l.since
		}
		if !l.oldest.IsZero() {
			s.Lag = max(s.Lag, r.deps.Clock().Sub(l.oldest))
		}
	}
	r.mu.Unlock()
	err := r.deps.Store.View(ctx, func(tx *store.Tx) (err error) {
		for _, source := range r.sources() {
			if s.Cursors[source.name], err = tx.Cursor(CursorName(r.deps.Name, source.name)); err != nil {
				return err
			}
		}
		return nil
	})
	return s, err
}

// Name is the exporter's name in the configuration.
func (r *Runner) Name() string { return r.deps.Name }

// Lag is how old the oldest document is that is under way; 0 when none is.
func (r *Runner) Lag() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	var lag time.Duration
	for _, l := range r.lanes {
		if !l.oldest.IsZero() {
			lag = max(lag, r.deps.Clock().Sub(l.oldest))
		}
	}
	return lag
}
