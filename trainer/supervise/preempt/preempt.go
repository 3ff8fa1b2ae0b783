// Package preempt knows when a machine is about to be taken away, and what can
// still be saved then.
//
// A source is one place that knows: the metadata service of a cloud. Watch asks
// all of them and gives the first notice of each.
package preempt

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
)

// Notice is word that the machine will be taken away.
type Notice struct {
	Source string // who said so: "aws", "gcp", "azure"
	What   string // what was said, for a person
	// Deadline is when; zero: it was not said.
	Deadline time.Time
	// Warning only says that it may come soon: what there is should be saved, and
	// training goes on.
	Warning bool
}

// Source is a place that knows. Methods are safe for concurrent use.
type Source interface {
	// Name is the source's name.
	Name() string
	// Look gives a notice, or none. Where the service is not there it fails with
	// fault.Unavailable.
	Look(ctx context.Context) (Notice, bool, error)
}

const (
	lookEvery   = 5 * time.Second // what the clouds recommend
	lookTimeout = 2 * time.Second
	silentAfter = 3 // failures in a row after which it is said once
)

// Watch asks the sources every few seconds until ctx ends, and gives what they
// say to tell: each source's warning once and its notice once.
func Watch(ctx context.Context, log *slog.Logger, sources []Source, every time.Duration, tell func(Notice)) error {
	if every <= 0 {
		every = lookEvery
	}
	tasks := make([]life.Task, 0, len(sources))
	for _, s := range sources {
		tasks = append(tasks, life.Task{Name: "notices of " + s.Name(), Run: func(ctx context.Context) error {
			watch(ctx, log, s, every, tell)
			return nil
		}})
	}
	group := life.NewGroup(ctx)
	for _, task := range tasks {
		group.Go(task.Name, task.Run)
	}
	return group.Wait()
}

// watch asks one source until it has given its notice.
func watch(ctx context.Context, log *slog.Logger, s Source, every time.Duration, tell func(Notice)) {
	warned, failures := false, 0
	for {
		notice, ok, err := look(ctx, s)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if failures++; failures == silentAfter {
				log.Warn("a source of preemption notices does not answer", "source", s.Name(), "cause", err)
			}
		case ok && notice.Warning && !warned:
			warned = true
			tell(notice)
		case ok && !notice.Warning:
			tell(notice)
			return
		}
		if err == nil {
			failures = 0
		}
		if !life.Sleep(ctx, every) {
			return
		}
	}
}

func look(ctx context.Context, s Source) (Notice, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	notice, ok, err := s.Look(ctx)
	notice.Source = s.Name()
	return notice, ok, err
}

// New makes a source by name: "aws", "gcp" or "azure". Base is the address of
// its metadata service; empty: its own. It fails with fault.Invalid for a name
// that is not known.
func New(name, base string) (Source, error) {
	switch name {
	case "aws":
		return newAWS(base), nil
	case "gcp":
		return newGCP(base), nil
	case "azure":
		return newAzure(base), nil
	}
	return nil, fault.New(fault.Invalid, "preemption notices: there is no source %q; want aws, gcp or azure", name)
}

// unavailable marks an error of a service that does not answer as it should.
func unavailable(name string, err error) error {
	return fault.Mark(fault.Unavailable, fmt.Errorf("ask %s for notices: %w", name, err))
}
