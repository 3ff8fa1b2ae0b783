package spool

import (
	"sync/atomic"

	"github.com/vigil-ml/vigil/internal/fault"
)

// Budget is the bytes on disk that several spools may hold together. It is safe
// for concurrent use.
type Budget struct {
	max  int64
	used atomic.Int64
}

// NewBudget makes a budget of so many bytes. Spools that write at the same time
// may exceed it by one record each.
func NewBudget(maxBytes int64) *Budget { return &Budget{max: maxBytes} }

// over tells whether there is no room for so many bytes more.
func (b *Budget) over(size int64) bool { return b != nil && b.used.Load()+size > b.max }

// hold counts bytes that came onto the disk, or went.
func (s *Spool) hold(bytes int64) {
	s.stats.Bytes += bytes
	if s.deps.Budget != nil {
		s.deps.Budget.used.Add(bytes)
	}
}

// makeRoom drops frames until a record fits: of the budget first those of the
// spool that yields, then, as for this spool's own bound, the oldest here. It
// fails when others hold the whole budget.
func (s *Spool) makeRoom(size int64) error {
	for s.stats.Bytes+size > s.config.MaxBytes && len(s.segments) > 0 {
		s.dropOldest()
	}
	for s.deps.Budget.over(size) {
		switch {
		case s.deps.Yields != nil && s.deps.Yields.giveWay():
		case len(s.segments) > 0:
			s.dropOldest()
		default:
			return fault.WithHint(fault.New(fault.Exhausted, "the spools hold all of their %d bytes with what matters more", s.deps.Budget.max),
				"raise spool.max_bytes, or bring the control plane back")
		}
	}
	return nil
}

// giveWay drops the oldest segment for another spool; false when there is none.
// The other one holds its own lock: no spool may yield to one that yields to it.
func (s *Spool) giveWay() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.segments) == 0 {
		return false
	}
	s.dropOldest()
	return true
}

// dropOldest removes the oldest segment and counts what was not acknowledged.
func (s *Spool) dropOldest() {
	oldest := s.segments[0]
	if s.takes(oldest) {
		s.seal()
	}
	lost := oldest.waiting(s.acknowledged)
	s.remove(oldest)
	s.count()
	if lost > 0 {
		s.stats.Dropped += lost
		s.deps.Metrics.dropped.WithLabelValues(s.deps.Class).Add(float64(lost))
		s.deps.Log.Warn("spool is full: dropped its oldest frames", "count", lost, "up_to", oldest.end())
	}
}
