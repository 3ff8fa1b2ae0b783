package forward

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/prometheus/tsdb/wlog"

	"github.com/vigil-ml/vigil/internal/durable"
)

// positionsDir is where positions are, below the TSDB's directory.
const positionsDir = "remote"

// position is a place in the log: all that is before it was taken.
type position struct {
	Segment int   `json:"segment"`
	Offset  int64 `json:"offset"` // bytes of the segment
	// NewestMS is the time of the newest sample before it.
	NewestMS int64 `json:"newest_ms"`
}

func (s *Sender) path() string {
	return filepath.Join(s.deps.Dir, positionsDir, s.settings.Name+".json")
}

// load reads the position; false when there is none.
func (s *Sender) load() (at position, known bool, err error) {
	text, err := os.ReadFile(s.path())
	if errors.Is(err, fs.ErrNotExist) {
		return at, false, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &at)
	}
	if err != nil {
		return at, false, fmt.Errorf("read how far remote write was: %w", err)
	}
	return at, true, nil
}

// save notes how far the sender is, durably.
func (s *Sender) save() error {
	if s.at == nil || s.saved != nil && *s.at == *s.saved {
		return nil
	}
	text, err := json.Marshal(s.at)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(s.path()), 0o700); err != nil {
		return fmt.Errorf("note how far remote write is: %w", err)
	}
	if err := durable.WriteFile(durable.OS{}, s.path(), text, 0o600); err != nil {
		return fmt.Errorf("note how far remote write is: %w", err)
	}
	s.saved, s.savedAt = s.at, time.Now()
	return nil
}

// begin notes, for a store that is new, that what is in the log now is not for it.
func (s *Sender) begin() error {
	if _, known, err := s.load(); known || err != nil {
		return err
	}
	_, last, err := wlog.Segments(s.wal)
	if err != nil {
		return fmt.Errorf("find the log of samples: %w", err)
	}
	info, err := os.Stat(wlog.SegmentName(s.wal, last))
	if err != nil {
		return fmt.Errorf("find the end of the log of samples: %w", err)
	}
	s.at = &position{Segment: last, Offset: info.Size(), NewestMS: s.deps.NewestMS}
	return s.save()
}
