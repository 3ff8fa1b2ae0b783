package bus

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
)

// syncer puts what NATS has written to the stream's files on stable storage, for
// [SyncAlways]. NATS itself can sync each message by itself only: a few hundred
// frames a second on many a disk, however many agents wait. Here all frames that
// were written when a sync begins share it: whoever waits for one that no sync
// has covered does the next, for all.
//
// NATS appends each message to the last of the numbered block files of the
// stream before it answers, whole. It rewrites blocks only when most of their
// messages were discarded, and never the last one.
type syncer struct {
	dir      string // of the block files
	syncFile func(*os.File) error
	seconds  prometheus.Observer

	mu      sync.Mutex
	written uint64        // the last sequence that NATS has answered for
	synced  uint64        // the last one on stable storage
	busy    chan struct{} // closed when the sync in progress ends; nil without one
	broken  error         // why nothing can be said to be on stable storage anymore

	// Only who syncs uses these.
	block  int      // the number of the last block that is known
	file   *os.File // that block
	dirDue bool     // the directory is to be synced: blocks were begun
}

// blockSuffix ends the names of block files, which begin with their number.
const blockSuffix = ".blk"

// blocksOf is where the embedded server keeps the stream's messages.
func blocksOf(dir string) string {
	return filepath.Join(dir, "jetstream", "$G", "streams", streamName, "msgs")
}

// openSyncer makes sure of everything that is there: a process before this one
// may have been killed between writing and syncing. Last is the stream's last
// sequence.
func openSyncer(dir string, last uint64, seconds prometheus.Observer) (*syncer, error) {
	s := &syncer{dir: blocksOf(dir), syncFile: (*os.File).Sync, seconds: seconds, written: last, synced: last}
	blocks, err := s.blocks()
	if err != nil {
		return nil, err
	}
	for _, block := range blocks {
		if err := s.syncBlock(block); err != nil {
			return nil, err
		}
	}
	for at := s.dir; ; at = filepath.Dir(at) {
		if err := (durable.OS{}).SyncDir(at); err != nil {
			return nil, fmt.Errorf("sync directory %s: %w", at, err)
		}
		if at == dir {
			s.dirDue = false
			return s, nil
		}
	}
}

func (s *syncer) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken == nil {
		s.broken = errors.New("the bus is closed")
	}
	if s.busy == nil && s.file != nil {
		_ = s.file.Close() // it was synced, or nobody was told of what it has
		s.file = nil
	}
}

func (s *syncer) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.broken
}

// wrote notes that NATS has written a message.
func (s *syncer) wrote(sequence uint64) {
	s.mu.Lock()
	s.written = max(s.written, sequence)
	s.mu.Unlock()
}

// wait returns when a message that is written is on stable storage too, with all
// before it. Once a sync has failed it always fails: what the operating system
// has of the file is then not known. What goes wrong before, as when no more files
// can be opened, fails who was about to sync alone: the next one tries again.
func (s *syncer) wait(ctx context.Context, sequence uint64) error {
	for {
		s.mu.Lock()
		switch {
		case s.broken != nil:
			defer s.mu.Unlock()
			return fault.New(fault.Unavailable, "sync the bus: %w", s.broken)
		case s.synced >= sequence:
			s.mu.Unlock()
			return nil
		case s.busy == nil:
			if err := s.lead(max(s.written, sequence)); err != nil {
				return fault.New(fault.Unavailable, "sync the bus: %w", err)
			}
			continue
		}
		busy := s.busy
		s.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return fault.New(fault.Unavailable, "wait for a sync of the bus: %w", ctx.Err())
		}
	}
}

// lead syncs all up to a sequence. It is called with the mutex held and returns
// without.
func (s *syncer) lead(upTo uint64) error {
	done := make(chan struct{})
	s.busy = done
	s.mu.Unlock()
	start := time.Now()
	err := s.sync()
	s.seconds.Observe(time.Since(start).Seconds())
	s.mu.Lock()
	if lost, failed := errors.AsType[*lostError](err); failed && s.broken == nil {
		s.broken = lost
	}
	if err == nil {
		s.synced = max(s.synced, upTo)
	}
	if s.broken != nil && s.file != nil {
		_ = s.file.Close()
		s.file = nil
	}
	s.busy = nil
	s.mu.Unlock()
	close(done)
	return err
}

// lostError is a sync that failed: what was written may be lost, and the next one
// would not say so.
type lostError struct{ error }

func lost(what string, err error) error {
	if err == nil {
		return nil
	}
	return &lostError{fmt.Errorf("sync %s: %w", what, err)}
}

// sync syncs the last block that is known and those that were begun since.
func (s *syncer) sync() error {
	if s.file != nil {
		if err := s.syncFile(s.file); err != nil {
			return lost("block "+s.file.Name(), err)
		}
	}
	begun, err := s.begun()
	if err != nil {
		return err
	}
	for _, block := range begun {
		if err := s.syncBlock(block); err != nil {
			return err
		}
	}
	if s.file == nil {
		return fmt.Errorf("find blocks in %s: there is none", s.dir)
	}
	if !s.dirDue {
		return nil
	}
	if err := (durable.OS{}).SyncDir(s.dir); err != nil {
		return lost("directory "+s.dir, err)
	}
	s.dirDue = false
	return nil
}

// begun gives the blocks behind the last that is known. Blocks are discarded
// from the oldest on: while that one is there, those behind it follow it without
// a gap. Otherwise it gives all that there are.
func (s *syncer) begun() ([]int, error) {
	if s.file == nil {
		return s.blocks()
	}
	var begun []int
	for block := s.block + 1; ; block++ {
		there, err := s.exists(block)
		if err != nil {
			return nil, err
		}
		if !there {
			break
		}
		begun = append(begun, block)
	}
	if there, err := s.exists(s.block); err != nil || there || len(begun) > 0 {
		return begun, err
	}
	return s.blocks()
}

// syncBlock syncs a block and keeps it open. One that is gone was discarded.
func (s *syncer) syncBlock(block int) error {
	file, err := os.Open(s.path(block))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if s.file != nil {
		_ = s.file.Close() // it is only read
	}
	s.block, s.file, s.dirDue = block, file, true
	return lost("block "+file.Name(), s.syncFile(file))
}

func (s *syncer) exists(block int) (bool, error) {
	_, err := os.Stat(s.path(block))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func (s *syncer) path(block int) string {
	return filepath.Join(s.dir, strconv.Itoa(block)+blockSuffix)
}

// blocks gives the numbers of the blocks that there are, ascending.
func (s *syncer) blocks() ([]int, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var blocks []int
	for _, entry := range entries {
		if name, ok := strings.CutSuffix(entry.Name(), blockSuffix); ok {
			if n, err := strconv.Atoi(name); err == nil {
				blocks = append(blocks, n)
			}
		}
	}
	slices.Sort(blocks)
	return blocks, nil
}
