package spool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
)

// markInterval is how far apart the acknowledge mark is written while Run runs:
// to write it costs as much as sending a batch, and a mark that lags costs a
// killed agent no more than to send again what the receiver knows.
const markInterval = 30 * time.Second

// Spool is a bounded log of records on disk. Make one with [Open] and close
// it. All methods are safe for concurrent use.
type Spool struct {
	config Config
	deps   Deps
	unlock func()
	work   chan struct{} // holds a token when Run has something to do

	// syncing orders fsyncs and writes of the state file. It is taken before
	// mu, and mu is not held while a disk is waited for, except to begin a
	// segment.
	syncing sync.Mutex
	saved   Position // the acknowledge mark on disk

	mu           sync.Mutex
	closed       bool
	epoch        uint64
	next         uint64 // sequence of the next record
	acknowledged Position
	segments     []*segment     // oldest first
	file         durable.File   // of the last segment, while it takes records
	sealed       []durable.File // full, not synced yet
	batch        *batch         // what the next fsync settles
	wake         chan struct{}  // closed at the next append; nil when nobody waits
	stats        Stats
	scratch      []byte
	record       []byte
}

// batch is the appends that one round of fsync settles. Err and settled are
// guarded by syncing.
type batch struct {
	dirty   bool // guarded by mu
	settled bool
	err     error
}

// Stats counts what a spool holds and lost.
type Stats struct {
	Frames  int64 // that wait for acknowledgement
	Bytes   int64 // of the segments on disk
	Dropped int64 // unacknowledged frames that gave way because the spool was full, since Open
	Skipped int64 // pieces of damage that were stepped over, since Open
}

// Open opens a spool in a directory of its own and starts a new epoch. It
// fails with [fault.Precondition] while another process has the directory
// open, and with [fault.Exhausted] when the disk is full.
func Open(config Config, deps Deps) (*Spool, error) {
	deps = deps.withDefaults()
	if err := deps.FS.MkdirAll(config.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make spool directory: %w", diskFull(config.Dir, err))
	}
	unlock, err := lockDir(config.Dir)
	if err != nil {
		return nil, err
	}
	s := &Spool{config: config, deps: deps, unlock: unlock, work: make(chan struct{}, 1), next: 1, batch: &batch{}}
	if err := s.load(); err != nil {
		unlock()
		return nil, fmt.Errorf("open spool %s: %w", config.Dir, err)
	}
	return s, nil
}

// load finds out where the last opening ended and begins the next epoch.
func (s *Spool) load() error {
	st, damaged, err := readState(s.config.Dir)
	if err != nil {
		return err
	}
	if s.segments, err = listSegments(s.deps.FS, s.config.Dir); err != nil {
		return err
	}
	if damaged {
		s.deps.Log.Warn("spool state is damaged: frames that were acknowledged may be sent again")
		s.stats.Skipped++
	}
	last := max(st.epoch, st.acknowledged.Epoch)
	for _, g := range s.segments {
		last = max(last, g.epoch)
		s.hold(g.size)
		s.stats.Skipped += g.skipped
	}
	s.epoch = max(last+1, uint64(max(s.deps.Clock().Unix(), 0)))
	s.acknowledged, s.saved = st.acknowledged, st.acknowledged
	// Segments that are acknowledged go with the next acknowledgement: until
	// then Each still finds what was appended last.
	s.count()
	if s.stats.Skipped > 0 {
		s.deps.Log.Warn("spool has damaged records, which are skipped", "count", s.stats.Skipped)
	}
	s.deps.Metrics.skipped.WithLabelValues(s.deps.Class).Add(float64(s.stats.Skipped))
	s.deps.Metrics.dropped.WithLabelValues(s.deps.Class).Add(0)
	return writeState(s.deps.FS, s.config.Dir, state{s.epoch, s.acknowledged})
}

// Acknowledge lets go of the frames up to a position. The mark survives a
// restart, but may lag by half a minute after a kill. A position that was not
// given out is refused with [fault.Invalid]; one before the mark does nothing.
func (s *Spool) Acknowledge(p Position) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.Compare(s.last()) > 0 {
		return fault.New(fault.Invalid, "acknowledge frame %v: the last frame is %v", p, s.last())
	}
	if p.Compare(s.acknowledged) > 0 {
		s.acknowledged = p
		s.forget()
		s.toDo()
	}
	return nil
}

// Acknowledged gives the acknowledge mark.
func (s *Spool) Acknowledged() Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acknowledged
}

// Last gives the position of the last frame; its sequence is 0 before the
// first of this epoch.
func (s *Spool) Last() Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last()
}

func (s *Spool) last() Position { return Position{s.epoch, s.next - 1} }

// Stats gives the counts.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// Run syncs what was appended SyncInterval later at most, and writes the
// acknowledge mark down every thirty seconds while it moves, until ctx ends.
// While nothing is appended or acknowledged it sleeps. A spool works without it,
// but then only full segments and Close are synced.
func (s *Spool) Run(ctx context.Context) error {
	marked := time.Now() // load wrote it
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.work:
		}
		if !life.InStep(ctx, cmp.Or(s.config.SyncInterval, markInterval)) {
			return nil
		}
		if err := s.settle(s.current()); err != nil {
			s.deps.Log.Error("sync spool: frames of the last interval may be lost with the machine", "err", err)
			s.toDo()
		}
		if s.config.SyncInterval > 0 && time.Since(marked) < markInterval {
			s.toDo()
			continue
		}
		marked = time.Now()
		if err := s.saveMark(); err != nil {
			s.deps.Log.Warn("write acknowledge mark", "err", err)
			s.toDo()
		}
	}
}

// toDo lets Run know that there is something to sync or to write down.
func (s *Spool) toDo() {
	select {
	case s.work <- struct{}{}:
	default: // it knows
	}
}

func (s *Spool) current() *batch {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.batch
}

// saveMark writes the acknowledge mark down where it moved.
func (s *Spool) saveMark() error {
	s.syncing.Lock()
	defer s.syncing.Unlock()
	mark := s.Acknowledged()
	if mark == s.saved {
		return nil
	}
	if err := writeState(s.deps.FS, s.config.Dir, state{s.epoch, mark}); err != nil {
		return err
	}
	s.saved = mark
	return nil
}

// Close syncs, writes the acknowledge mark down and ends every reader. A
// second call does nothing.
func (s *Spool) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.seal()
	s.wakeReaders()
	last := s.batch
	s.mu.Unlock()
	defer s.unlock()
	return errors.Join(s.settle(last), s.saveMark())
}

// forget removes segments whose frames are all acknowledged.
func (s *Spool) forget() {
	for len(s.segments) > 0 {
		oldest := s.segments[0]
		if s.takes(oldest) || oldest.end().Compare(s.acknowledged) > 0 {
			break
		}
		s.remove(oldest)
	}
	s.count()
}

// remove takes the oldest segment away. A file that cannot be removed is tried
// again at the next Open.
func (s *Spool) remove(oldest *segment) {
	oldest.removed = true
	s.segments = s.segments[1:]
	s.hold(-oldest.size)
	if err := s.deps.FS.RemoveAll(oldest.path); err != nil {
		s.deps.Log.Warn("remove segment", "err", err)
	}
}

// takes tells whether a segment is the one that takes records.
func (s *Spool) takes(g *segment) bool {
	return s.file != nil && g == s.segments[len(s.segments)-1]
}

// count brings the frame count and the gauges up to date.
func (s *Spool) count() {
	s.stats.Frames = 0
	for _, g := range s.segments {
		s.stats.Frames += g.waiting(s.acknowledged)
	}
	s.show()
}

func (s *Spool) show() {
	s.deps.Metrics.frames.WithLabelValues(s.deps.Class).Set(float64(s.stats.Frames))
	s.deps.Metrics.bytes.WithLabelValues(s.deps.Class).Set(float64(s.stats.Bytes))
}

// noteSkipped counts damage in a segment that was not counted before.
func (s *Spool) noteSkipped(g *segment, skipped int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if more := skipped - g.skipped; more > 0 {
		g.skipped = skipped
		s.stats.Skipped += more
		s.deps.Metrics.skipped.WithLabelValues(s.deps.Class).Add(float64(more))
		s.deps.Log.Warn("skipped damaged records", "segment", g.path, "count", more)
	}
}

func (s *Spool) wakeReaders() {
	if s.wake != nil {
		close(s.wake)
		s.wake = nil
	}
}
