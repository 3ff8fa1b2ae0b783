package spool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
)

var errClosed = fault.New(fault.Unavailable, "the spool is closed")

// Reader gives the records of a spool in order and waits for new ones. It is
// for one goroutine, which closes it; a spool may have several readers.
type Reader struct {
	spool   *Spool
	after   Position
	segment *segment
	file    durable.File
	scan    *scan
}

// Follow reads the records behind a position, which need not exist.
func (s *Spool) Follow(after Position) *Reader { return &Reader{spool: s, after: after} }

// Next gives the next record and waits until there is one, ctx ends or the
// spool is closed ([fault.Unavailable]). Records that were dropped are left
// out; damaged ones are skipped and counted. An error is that of a file that
// could not be opened; the next call tries again.
func (r *Reader) Next(ctx context.Context) (Record, error) {
	for {
		if err := ctx.Err(); err != nil {
			return Record{}, err
		}
		record, wake, err := r.try()
		if err != nil || wake == nil {
			return record, err
		}
		select {
		case <-ctx.Done():
			return Record{}, ctx.Err()
		case <-wake:
		}
	}
}

// Poll gives the next record if there is one now; see [Reader.Next].
func (r *Reader) Poll() (record Record, ok bool, err error) {
	record, wake, err := r.try()
	return record, wake == nil && err == nil, err
}

// Each gives the records that are there, acknowledged ones among them as far as
// they still are, the oldest first; it does not wait for more. It ends with the
// first error, its own or yield's.
func (s *Spool) Each(yield func(Record) error) error {
	r := s.Follow(Position{})
	defer func() { _ = r.Close() }()
	for {
		record, wake, err := r.try()
		if err != nil || wake != nil {
			return err
		}
		if err := yield(record); err != nil {
			return err
		}
	}
}

// try gives the next record, or a channel that is closed when there may be
// one.
func (r *Reader) try() (Record, <-chan struct{}, error) {
	for {
		for r.refresh() {
			sequence, payload, err := r.scan.next()
			if err != nil {
				r.note(err)
				break
			}
			if p := (Position{r.segment.epoch, sequence}); p.Compare(r.after) > 0 {
				r.after = p
				return Record{Position: p, Payload: slices.Clone(payload)}, nil, nil
			}
		}
		if wake, err := r.advance(); wake != nil || err != nil {
			return Record{}, wake, err
		}
	}
}

// Close lets go of the file; the spool stays open.
func (r *Reader) Close() error {
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file, r.scan = nil, nil
	return err
}

// refresh lets the scan see what was written since, and tells whether there is
// something to scan.
func (r *Reader) refresh() bool {
	r.spool.mu.Lock()
	defer r.spool.mu.Unlock()
	if r.scan == nil || r.segment.removed {
		return false
	}
	r.scan.grow(r.segment)
	return true
}

// note counts the damage that the scan met. A segment that the disk cannot
// read is given up from there on.
func (r *Reader) note(err error) {
	skipped := r.scan.skipped()
	if !errors.Is(err, errEnd) {
		r.spool.deps.Log.Error("read segment: the rest of it is skipped", "segment", r.segment.path, "err", err)
		skipped++
		r.spool.giveUp(r.segment)
	}
	r.spool.noteSkipped(r.segment, skipped)
}

// giveUp makes readers leave a segment, and no more records go into it.
func (s *Spool) giveUp(g *segment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.segments) > 0 && s.takes(g) {
		s.seal()
	}
	g.removed = true
}

// advance goes to the next segment. It gives a channel to wait on when there
// is nothing more to read now.
func (r *Reader) advance() (<-chan struct{}, error) {
	next, wake, err := r.successor()
	if next == nil || err != nil {
		return wake, err
	}
	_ = r.Close()
	r.segment = next
	f, err := r.spool.deps.FS.OpenFile(next.path, os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // removed this moment; the next round finds its successor
	}
	if err != nil {
		r.segment = nil
		return nil, fmt.Errorf("read spool: %w", err)
	}
	r.file = f
	r.spool.mu.Lock()
	defer r.spool.mu.Unlock()
	r.scan = newScan(f, next)
	return nil, nil
}

// successor finds the first segment behind the reader's own with something
// unread. When there is none it gives a channel that the next append closes,
// or neither when more was written to the reader's own segment.
func (r *Reader) successor() (*segment, <-chan struct{}, error) {
	s := r.spool
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, errClosed
	}
	if r.scan != nil && !r.segment.removed && r.segment.size > r.scan.tail.limit {
		return nil, nil, nil
	}
	for _, g := range s.segments {
		unread := g.end().Compare(r.after) > 0 && !g.removed
		if unread && (r.segment == nil || r.segment.before(g)) {
			return g, nil, nil
		}
	}
	if s.wake == nil {
		s.wake = make(chan struct{})
	}
	return nil, s.wake, nil
}

func (g *segment) before(h *segment) bool {
	return Position{g.epoch, g.first}.Compare(Position{h.epoch, h.first}) < 0
}
