package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"github.com/vigil-ml/vigil/internal/durable"
)

// sequenceBytes is what a record's sequence number takes up in its payload.
const sequenceBytes = 8

// segmentName matches EPOCH-FIRST.seg.
var segmentName = regexp.MustCompile(`^([0-9a-f]{16})-([0-9a-f]{16})\.seg$`)

// segment is one file of records. Its fields are guarded by the spool's lock.
type segment struct {
	path    string
	epoch   uint64
	first   uint64 // sequence of its first record
	last    uint64 // sequence of its last record; first-1 while it has none
	size    int64  // bytes that readers may look at
	skipped int64  // pieces of damage that are counted already
	removed bool   // readers leave it
}

func newSegment(dir string, epoch, first uint64) *segment {
	name := fmt.Sprintf("%016x-%016x.seg", epoch, first)
	return &segment{path: filepath.Join(dir, name), epoch: epoch, first: first, last: first - 1}
}

// end is the position of the last record.
func (g *segment) end() Position { return Position{g.epoch, g.last} }

// waiting counts the records behind the acknowledge mark.
func (g *segment) waiting(acknowledged Position) int64 {
	switch {
	case g.epoch < acknowledged.Epoch:
		return 0
	case g.epoch == acknowledged.Epoch:
		return int64(g.last - min(g.last, max(g.first-1, acknowledged.Sequence)))
	default:
		return int64(g.last - (g.first - 1))
	}
}

// listSegments gives the directory's segments, oldest first.
func listSegments(fsys durable.FS, dir string) ([]*segment, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list spool: %w", err)
	}
	var segments []*segment
	for _, entry := range entries {
		match := segmentName.FindStringSubmatch(entry.Name())
		if match == nil {
			continue
		}
		info, err := entry.Info()
		if err != nil {
			return nil, fmt.Errorf("list spool: %w", err)
		}
		epoch, _ := strconv.ParseUint(match[1], 16, 64)
		first, _ := strconv.ParseUint(match[2], 16, 64)
		if epoch == 0 || first == 0 {
			continue
		}
		segment := newSegment(dir, epoch, first)
		segment.size = info.Size()
		segments = append(segments, segment)
	}
	slices.SortFunc(segments, func(a, b *segment) int {
		return Position{a.epoch, a.first}.Compare(Position{b.epoch, b.first})
	})
	return segments, findEnds(fsys, segments)
}

// findEnds finds each segment's last sequence: one before the next segment of
// its epoch, or for an epoch's last segment, which may be torn, what is in it.
func findEnds(fsys durable.FS, segments []*segment) error {
	for i, g := range segments {
		if i+1 < len(segments) && segments[i+1].epoch == g.epoch {
			g.last = segments[i+1].first - 1
			continue
		}
		if err := scanEnd(fsys, g); err != nil {
			return err
		}
	}
	return nil
}

func scanEnd(fsys durable.FS, g *segment) error {
	f, err := fsys.OpenFile(g.path, os.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("open segment: %w", err)
	}
	defer func() { _ = f.Close() }()
	scan := newScan(f, g)
	for {
		_, _, err := scan.next()
		g.last = max(g.last, scan.last)
		if errors.Is(err, errEnd) {
			g.skipped = scan.skipped()
			return nil
		}
		if err != nil {
			return fmt.Errorf("read segment %s: %w", g.path, err)
		}
	}
}

// errEnd says that a scan is at the end of what there is now.
var errEnd = errors.New("end of segment")

// scan reads the records of one segment.
type scan struct {
	tail    tail
	records *durable.Scanner
	limit   uint64 // no sequence of the segment can reach it
	last    uint64
	strange int64 // whole records whose sequence cannot be
}

func newScan(f durable.File, g *segment) *scan {
	s := &scan{tail: tail{file: f}, last: g.first - 1}
	s.records = durable.NewScanner(&s.tail)
	s.grow(g)
	return s
}

// grow lets the scan see what was written since.
func (s *scan) grow(g *segment) {
	s.tail.limit = g.size
	s.limit = g.first + uint64(g.size/durable.RecordSize(sequenceBytes)) + 1
}

// next gives the next whole record; the payload is valid until the next call.
// At the end it gives errEnd, and after grow it may be called again.
func (s *scan) next() (sequence uint64, payload []byte, err error) {
	for {
		ok, err := s.records.Next()
		if err != nil {
			return 0, nil, err
		}
		if !ok {
			return 0, nil, errEnd
		}
		record := s.records.Payload()
		if len(record) < sequenceBytes {
			s.strange++
			continue
		}
		sequence = binary.LittleEndian.Uint64(record)
		if sequence <= s.last || sequence >= s.limit {
			s.strange++
			continue
		}
		s.last = sequence
		return sequence, record[sequenceBytes:], nil
	}
}

func (s *scan) skipped() int64 { return s.records.Skipped() + s.strange }

// tail reads a file that grows, up to a limit. It ends at the limit with
// io.EOF and goes on when the limit is raised; limits fall between records, so
// that the scanner above never takes half a record for damage.
type tail struct {
	file  durable.File
	at    int64
	limit int64
}

// Read reads up to the limit.
func (t *tail) Read(p []byte) (int, error) {
	if t.at >= t.limit {
		return 0, io.EOF
	}
	n, err := t.file.Read(p[:min(int64(len(p)), t.limit-t.at)])
	t.at += int64(n)
	return n, err
}
