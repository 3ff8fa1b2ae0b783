package localapi

import (
	"context"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/internal/life"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

const (
	// tickSteps is how many of its usual steps a trainer may take for one
	// before the agent says that none has finished.
	tickSteps = 10
	// tickGrowth is by how much the wait for the next tick grows, and tickMost
	// what it grows to: a process that hangs over night makes a few hundred
	// ticks.
	tickGrowth = 1.5
	tickMost   = time.Minute
	// firstStepFactor is how many times TickAfter a trainer may take for its
	// first two steps: it compiles and connects, and nobody knows its pace.
	firstStepFactor = 12
	// usualMemory is over how many steps their usual time is averaged.
	usualMemory = 16
)

// stepping is how a session's steps go, by this node's clock.
type stepping struct {
	last  int64         // the last that finished; 0: none has
	at    time.Time     // when it did, by its event
	usual time.Duration // from step to step; 0 when not known
	quiet time.Time     // since when none was reported
	wait  time.Duration // from quiet to the next tick; 0 before the first look
}

// finished takes in that a step was reported. A pause, which is far from what
// is usual, counts for no more than twice that.
func (p *stepping) finished(step int64, at, now time.Time) {
	if gap := at.Sub(p.at); p.last > 0 && gap > 0 {
		if p.usual == 0 {
			p.usual = gap
		}
		p.usual += (min(gap, 2*p.usual) - p.usual) / usualMemory
	}
	p.last, p.at, p.quiet, p.wait = step, at, now, 0
}

// due tells whether it is time to say that no step has finished, and if so
// puts off the next time.
func (p *stepping) due(now time.Time, least time.Duration) bool {
	if p.quiet.IsZero() {
		p.quiet = now
	}
	if p.wait == 0 {
		p.wait = max(least, tickSteps*p.usual)
		if p.usual == 0 {
			p.wait = firstStepFactor * least
		}
	}
	if now.Sub(p.quiet) < p.wait {
		return false
	}
	p.wait += min(time.Duration((tickGrowth-1)*float64(p.wait)), tickMost)
	return true
}

// finished takes in that a session's process finished a step.
func (t *Sessions) finished(s *Session, step int64, at, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.steps.finished(step, at, now)
}

// reporting notes that a report of a session begins to be written; the caller
// calls what it gives when that has ended.
func (t *Sessions) reporting(s *Session) (ended func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.reporting++
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		s.reporting--
	}
}

// overdue gives the last step of each training process that is there and of
// which it is time to say that it finished no step since, and how long from now
// nothing more can be.
func (t *Sessions) overdue(now time.Time, least time.Duration) (found map[*Session]int64, quiet time.Duration) {
	quiet = least // a process that comes or goes on now is not due before
	for _, s := range t.Everyone() {
		t.mu.Lock()
		// A report that waits for this node's disk says that steps finish.
		if !s.away && s.reporting == 0 {
			if s.steps.due(now, least) {
				if found == nil {
					found = map[*Session]int64{}
				}
				found[s] = s.steps.last
			}
			quiet = min(quiet, s.steps.quiet.Add(s.steps.wait).Sub(now))
		}
		t.mu.Unlock()
	}
	return found, quiet
}

// watchSteps says of training processes that finish no step that time passes,
// until ctx ends. A process that stands still cannot say so itself. The first
// tick comes after ten of its usual steps, Config.TickAfter at least, and each
// next one later than the one before, so that their number is bounded by the
// logarithm of the wait and, for very long ones, one a minute.
func (a *API) watchSteps(ctx context.Context) error {
	least := a.config.TickAfter
	for wait := least; life.InStep(ctx, max(wait, least/4, time.Millisecond)); {
		var found map[*Session]int64
		found, wait = a.sessions.overdue(a.deps.Clock(), least)
		for s, last := range found {
			if a.book.isOpen(s.RunID) {
				a.tick(ctx, s, last)
			}
		}
	}
	return nil
}

func (a *API) tick(ctx context.Context, s *Session, last int64) {
	event := &commonv1.Event{
		EventId: uuid.Must(uuid.NewV7()).String(), Time: timestamppb.New(a.deps.Clock()),
		RunId: s.RunID, Attempt: s.Attempt, Rank: s.Rank,
		Body: &commonv1.Event_Tick{Tick: &commonv1.Tick{LastStep: last}},
	}
	if err := a.deps.Events(ctx, s.RunID, event); err != nil {
		a.deps.Log.Warn("say that no step finishes", "run", s.RunID, "rank", s.Rank, "error", err)
		return
	}
	a.ticks.Inc()
}
