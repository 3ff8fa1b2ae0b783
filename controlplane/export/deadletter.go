package export

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	otlplogs "go.opentelemetry.io/proto/otlp/logs/v1"
	otlpmetrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	otlptrace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// deadLetter is a document that was given up, as a line of the file.
type deadLetter struct {
	Stream   string         `json:"stream"`
	ID       string         `json:"id"`
	Time     time.Time      `json:"time"`
	Received time.Time      `json:"received"`
	Given    time.Time      `json:"given_up"`
	Reason   string         `json:"reason"`
	Fields   map[string]any `json:"document,omitempty"`
	OTLP     []byte         `json:"otlp,omitempty"`
}

func letterOf(d Document, reason string, now time.Time) deadLetter {
	letter := deadLetter{Stream: d.Stream, ID: d.ID, Time: d.Time, Received: d.Received, Given: now, Reason: reason, Fields: d.Fields}
	if d.OTLP != nil {
		letter.OTLP, _ = proto.Marshal(d.OTLP) // it was read from such bytes
	}
	return letter
}

func (l deadLetter) document() Document {
	d := Document{Stream: l.Stream, ID: l.ID, Time: l.Time, Received: l.Received, Fields: l.Fields, Uncertain: true}
	if len(l.OTLP) == 0 {
		return d
	}
	var as proto.Message
	switch l.Stream {
	case StreamTraces:
		as = &otlptrace.ResourceSpans{}
	case StreamMetrics:
		as = &otlpmetrics.ResourceMetrics{}
	default:
		as = &otlplogs.ResourceLogs{}
	}
	if proto.Unmarshal(l.OTLP, as) == nil {
		d.OTLP = as
	}
	return d
}

// deadLetters is two files of JSON lines: what is written goes to the first;
// when that holds half of the bound it takes the place of the second, whose
// lines are lost and counted. A third holds what a replay is at.
type deadLetters struct {
	mu                      sync.Mutex
	current, older, replays string
	half                    int64
}

func newDeadLetters(dir, name string, maxBytes int64) *deadLetters {
	path := filepath.Join(dir, name+".dead.jsonl")
	return &deadLetters{current: path, older: path + ".1", replays: path + ".replaying", half: maxBytes / 2}
}

// add writes letters and syncs; it gives how many older ones had to go.
func (d *deadLetters) add(letters []deadLetter) (dropped int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := os.MkdirAll(filepath.Dir(d.current), 0o700); err != nil {
		return 0, err
	}
	var lines bytes.Buffer
	for _, letter := range letters {
		line, err := json.Marshal(letter)
		if err != nil {
			return dropped, err
		}
		if has := sizeOf(d.current) + int64(lines.Len()); has > 0 && has+int64(len(line)) >= d.half {
			went, err := d.turn(&lines)
			dropped += went
			if err != nil {
				return dropped, err
			}
		}
		lines.Write(append(line, '\n'))
	}
	return dropped, appendSynced(d.current, lines.Bytes())
}

// turn writes what is gathered and puts the first file in the place of the
// second.
func (d *deadLetters) turn(lines *bytes.Buffer) (dropped int, err error) {
	if err := appendSynced(d.current, lines.Bytes()); err != nil {
		return 0, err
	}
	lines.Reset()
	if dropped, err = countLines(d.older); err != nil {
		return 0, err
	}
	return dropped, os.Rename(d.current, d.older)
}

func appendSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// size is what all files have, in bytes.
func (d *deadLetters) size() int64 {
	return sizeOf(d.current) + sizeOf(d.older) + sizeOf(d.replays)
}

// take sets all letters apart for a replay, behind those of a replay that did
// not end, and gives their file; "" when there are none.
func (d *deadLetters) take() (path string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, from := range []string{d.older, d.current} {
		if err := moveLines(from, d.replays); err != nil {
			return "", err
		}
	}
	if sizeOf(d.replays) == 0 {
		return "", nil
	}
	return d.replays, nil
}

// moveLines appends a file to another and removes it.
func moveLines(from, to string) error {
	if sizeOf(from) == 0 {
		return nil
	}
	if sizeOf(to) == 0 {
		return os.Rename(from, to)
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := appendSynced(to, data); err != nil {
		return err
	}
	return os.Remove(from)
}

func sizeOf(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

func countLines(path string) (n int, err error) {
	err = eachLetter(path, func(deadLetter) error { n++; return nil })
	return n, err
}

// eachLetter reads a file of letters. A line that is cut off is left out: its
// writing was not finished, so its documents are still with their source.
func eachLetter(path string, yield func(deadLetter) error) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewReaderSize(f, 64<<10)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 && err == nil {
			var letter deadLetter
			if json.Unmarshal(line, &letter) == nil {
				if err := yield(letter); err != nil {
					return err
				}
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read dead letters: %w", err)
		}
	}
}
