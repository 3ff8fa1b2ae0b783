package audit

import (
	"context"
	"time"

	"github.com/vigil-ml/vigil/controlplane/audit/trail"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
)

const (
	// keepEvery is how often records whose time has come are let go of.
	keepEvery = time.Hour
	// copyPause gathers records that come together; a directory is behind by no
	// more.
	copyPause = 100 * time.Millisecond
	// How long a copy that cannot be written is left alone.
	copyRetryFirst = time.Second
	copyRetryMost  = time.Minute
)

// copier is a copy of the log somewhere. It is used by one goroutine.
type copier interface {
	// end gives the place behind its last record, and that record; 0 when it has
	// none.
	end() (next uint64, last trail.Entry)
	// add writes entries, which follow those that are there.
	add(ctx context.Context, entries []trail.Entry) error
	// mark writes the signed head behind the last record.
	mark(ctx context.Context, note string) error
	close() error
}

// place is where a copy is to be.
type place struct {
	name  string
	pause time.Duration // between two writes
	open  func(ctx context.Context, public string) (copier, error)
}

// places are those of the configuration.
func (c Config) places() []place {
	var all []place
	for _, path := range c.Copies {
		all = append(all, place{path, copyPause, func(_ context.Context, public string) (copier, error) { return openDirectory(path, public) }})
	}
	for _, b := range c.Buckets {
		all = append(all, place{b.name(), b.pause(), func(ctx context.Context, public string) (copier, error) {
			return openBucket(ctx, b, public)
		}})
	}
	return all
}

// Run brings every record to the copies until ctx ends, and lets go of those
// whose time has come. A copy that cannot be written is tried again, and holds up
// no other; what it lacks is in the store.
func (l *Log) Run(ctx context.Context) error {
	group := life.NewGroup(ctx)
	for _, p := range l.config.places() {
		group.Go("audit copy "+p.name, func(ctx context.Context) error { return l.keepCopy(ctx, p) })
	}
	group.Go("audit retention", func(ctx context.Context) error {
		for ok := true; ok; ok = life.Sleep(ctx, keepEvery) {
			if err := l.LetGo(ctx); err != nil && ctx.Err() == nil {
				l.deps.Log.Error("let go of audit records", "error", err)
			}
		}
		return nil
	})
	return group.Wait()
}

// keepCopy keeps one copy up to the log.
func (l *Log) keepCopy(ctx context.Context, p place) error {
	said := ""
	return life.Again(ctx, life.Retry{First: copyRetryFirst, Most: copyRetryMost, Failed: func(err error) {
		if text := err.Error(); text != said {
			l.deps.Log.Error("audit copy is behind; trying again", "copy", p.name, "error", err)
			said = text
		}
	}}, func(ctx context.Context) error {
		c, err := p.open(ctx, l.public)
		if err != nil {
			return err
		}
		defer func() { _ = c.close() }()
		for {
			changed := l.deps.Store.Changed(store.TopicAudit)
			if err := l.bring(ctx, p.name, c); err != nil {
				return err
			}
			said = ""
			select {
			case <-ctx.Done():
				return nil
			case <-changed:
				life.Sleep(ctx, p.pause)
			}
		}
	})
}

// bring brings a copy up to the log. One that has what the log has not says that
// the log was cut off or changed.
func (l *Log) bring(ctx context.Context, name string, c copier) error {
	astray := l.astray.WithLabelValues(name)
	for first := true; ; first = false {
		next, last := c.end()
		entries, err := l.entries(ctx, next, copyBatch, last)
		if fault.Is(err, fault.Corrupt) {
			astray.Set(1)
		}
		if err != nil {
			return err
		}
		astray.Set(0)
		switch {
		case len(entries) > 0:
			last = entries[len(entries)-1]
		case next == 0 || !first: // else the head may not have been written when the last record was
			return nil
		}
		note, err := l.noteAt(ctx, last)
		if err != nil {
			return err
		}
		if len(entries) > 0 {
			if err := c.add(ctx, entries); err != nil {
				return err
			}
		}
		if err := c.mark(ctx, note); err != nil || len(entries) == 0 {
			return err
		}
	}
}
