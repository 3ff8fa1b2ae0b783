package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
)

// Append adds one record and gives its position; with SyncInterval 0 it is on
// stable storage then. The payload is copied. After an error of kind
// [fault.Exhausted] (the disk is full) or [fault.Invalid] (larger than a
// segment) the record is not in the spool, and the spool works on. After an
// error of the fsync it may be: readers may have had it already.
func (s *Spool) Append(payload []byte) (Position, error) {
	s.mu.Lock()
	p, err := s.write(payload)
	if fault.Is(err, fault.Exhausted) && s.deps.Yields != nil && s.deps.Yields.giveWay() {
		// The disk is full, and what matters less went: one segment and no more,
		// since it may be others who fill the disk.
		p, err = s.write(payload)
	}
	mine, rolled := s.batch, len(s.sealed) > 0
	s.mu.Unlock()
	if err != nil {
		return Position{}, fmt.Errorf("append to spool %s: %w", s.config.Dir, err)
	}
	if s.config.SyncInterval > 0 && !rolled {
		return p, nil
	}
	if err := s.settle(mine); err != nil {
		return Position{}, fmt.Errorf("append to spool %s: %w", s.config.Dir, diskFull(s.config.Dir, err))
	}
	return p, nil
}

// write writes a record to the last segment and lets readers have it.
func (s *Spool) write(payload []byte) (Position, error) {
	if s.closed {
		return Position{}, errClosed
	}
	size := durable.RecordSize(sequenceBytes + len(payload))
	if size > s.config.SegmentBytes {
		return Position{}, fault.New(fault.Invalid,
			"record of %d bytes is larger than a segment of %d", size, s.config.SegmentBytes)
	}
	if err := s.makeRoom(size); err != nil {
		return Position{}, err
	}
	if s.file != nil && s.segments[len(s.segments)-1].size+size > s.config.SegmentBytes {
		s.seal()
	}
	if s.file == nil {
		if err := s.begin(); err != nil {
			return Position{}, err
		}
	}
	g := s.segments[len(s.segments)-1]
	s.scratch = binary.LittleEndian.AppendUint64(s.scratch[:0], s.next)
	s.scratch = append(s.scratch, payload...)
	s.record = durable.AppendRecord(s.record[:0], s.scratch)
	if _, err := s.file.Write(s.record); err != nil {
		s.undo(g)
		return Position{}, diskFull(s.config.Dir, err)
	}
	p := Position{s.epoch, s.next}
	s.next++
	g.last, g.size = p.Sequence, g.size+size
	s.batch.dirty = true
	if s.config.SyncInterval > 0 {
		s.toDo()
	}
	s.hold(size)
	s.stats.Frames++
	s.show()
	s.wakeReaders()
	return p, nil
}

// begin opens the next segment.
func (s *Spool) begin() error {
	g := newSegment(s.config.Dir, s.epoch, s.next)
	f, err := s.deps.FS.OpenFile(g.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("begin segment: %w", diskFull(s.config.Dir, err))
	}
	if err := s.deps.FS.SyncDir(s.config.Dir); err != nil {
		_ = f.Close()
		return fmt.Errorf("begin segment: %w", diskFull(s.config.Dir, err))
	}
	s.file = f
	s.segments = append(s.segments, g)
	return nil
}

// seal ends the segment that takes records; its file waits for the next fsync.
func (s *Spool) seal() {
	if s.file != nil {
		s.sealed = append(s.sealed, s.file)
		s.file = nil
		s.batch.dirty = true
	}
}

// undo takes back what a failed write left of a record. Where that fails too
// the segment is ended, and its torn end is skipped when it is read.
func (s *Spool) undo(g *segment) {
	err := s.file.Truncate(g.size)
	if err == nil {
		return
	}
	s.deps.Log.Warn("truncate segment after a failed write", "segment", g.path, "err", err)
	s.seal()
	if g.size == 0 {
		// The next segment will have the same name.
		g.removed = true
		s.segments = s.segments[:len(s.segments)-1]
	}
}

// settle puts a batch on stable storage, or finds that someone has done so.
func (s *Spool) settle(b *batch) error {
	s.syncing.Lock()
	defer s.syncing.Unlock()
	if b.settled {
		return b.err
	}
	// A batch that is not settled is the current one: batches change only here.
	s.mu.Lock()
	if !b.dirty {
		s.mu.Unlock()
		return nil
	}
	sealed, open := s.sealed, s.file
	s.sealed, s.batch = nil, &batch{}
	s.mu.Unlock()
	for _, f := range sealed {
		b.err = errors.Join(b.err, f.Sync(), f.Close())
	}
	if open != nil {
		if err := open.Sync(); err != nil {
			b.err = errors.Join(b.err, err)
			s.retire(open)
		}
	}
	b.settled = true
	return b.err
}

// retire ends a segment whose fsync failed: the kernel may have dropped its
// dirty pages, and another fsync of the same file would prove nothing.
func (s *Spool) retire(f durable.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == f {
		s.seal()
	}
}
