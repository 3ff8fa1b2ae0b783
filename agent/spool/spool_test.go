package spool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		appendForever(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// small has segments of about twenty records of the tests.
func small(dir string) Config {
	return Config{Dir: dir, MaxBytes: 8 << 10, SegmentBytes: 1 << 10}
}

// epochsFrom1 makes epochs count from 1.
func epochsFrom1() time.Time { return time.Unix(0, 0) }

func open(t testing.TB, config Config, deps Deps) *Spool {
	t.Helper()
	if deps.Clock == nil {
		deps.Clock = epochsFrom1
	}
	if deps.Log == nil {
		deps.Log = testkit.Logger(t)
	}
	s, err := Open(config, deps)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func mustAppend(t testing.TB, s *Spool, payloads ...string) (last Position) {
	t.Helper()
	for _, p := range payloads {
		var err error
		if last, err = s.Append([]byte(p)); err != nil {
			t.Fatal(err)
		}
	}
	return last
}

func numbered(from, to int) (payloads []string) {
	for i := from; i <= to; i++ {
		payloads = append(payloads, fmt.Sprintf("payload number %06d of the test", i))
	}
	return payloads
}

// readAll reads what is in the spool now.
func readAll(t testing.TB, s *Spool, after Position) (payloads []string, positions []Position) {
	t.Helper()
	r := s.Follow(after)
	defer func() { _ = r.Close() }()
	for {
		record, wake, err := r.try()
		if err != nil {
			t.Fatal(err)
		}
		if wake != nil {
			return payloads, positions
		}
		payloads = append(payloads, string(record.Payload))
		positions = append(positions, record.Position)
	}
}

func wantPayloads(t testing.TB, s *Spool, after Position, want []string) {
	t.Helper()
	got, positions := readAll(t, s, after)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("payloads (-want +got):\n%s", diff)
	}
	if !slices.IsSortedFunc(positions, Position.Compare) {
		t.Errorf("positions are not in order: %v", positions)
	}
}

func segmentFiles(t testing.TB, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestRecordsComeInOrderAcrossSegments(t *testing.T) {
	s := open(t, small(t.TempDir()), Deps{})
	want := numbered(1, 60)
	for i, payload := range want {
		if got, expected := mustAppend(t, s, payload), (Position{1, uint64(i + 1)}); got != expected {
			t.Fatalf("record %d has position %v, want %v", i, got, expected)
		}
	}
	wantPayloads(t, s, Position{}, want)
	wantPayloads(t, s, Position{1, 30}, want[30:])
	wantPayloads(t, s, Position{1, 60}, nil)
	wantPayloads(t, s, Position{7, 0}, nil)
	if n := len(segmentFiles(t, s.config.Dir)); n < 3 {
		t.Errorf("there are %d segments, want several", n)
	}
	if got := s.Stats(); got.Frames != 60 || got.Dropped != 0 || got.Skipped != 0 {
		t.Errorf("stats = %+v", got)
	}
}

func TestRestartGoesOnInTheNextEpoch(t *testing.T) {
	config := small(t.TempDir())
	for epoch := range uint64(3) {
		s := open(t, config, Deps{})
		last := mustAppend(t, s, numbered(int(epoch)*10+1, int(epoch)*10+10)...)
		if want := (Position{epoch + 1, 10}); last != want {
			t.Errorf("last position %v, want %v", last, want)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, config, Deps{})
	wantPayloads(t, s, Position{}, numbered(1, 30))
	wantPayloads(t, s, Position{2, 5}, numbered(16, 30))
	if got := s.Stats().Frames; got != 30 {
		t.Errorf("frames = %d, want 30", got)
	}
}

func TestEpochGrowsEvenWhenTheDirectoryIsLost(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	deps := Deps{Clock: func() time.Time { return now }}
	first := mustAppend(t, open(t, small(t.TempDir()), deps), "x")
	now = now.Add(time.Minute)
	second := mustAppend(t, open(t, small(t.TempDir()), deps), "x")
	if second.Compare(first) <= 0 {
		t.Errorf("position %v of a new directory does not stand behind %v", second, first)
	}
	// A clock that went back does not bring an epoch back.
	config := small(t.TempDir())
	before := open(t, config, deps)
	first = mustAppend(t, before, "x")
	_ = before.Close()
	now = time.Unix(0, 0)
	if second = mustAppend(t, open(t, config, deps), "x"); second.Compare(first) <= 0 {
		t.Errorf("position %v does not stand behind %v", second, first)
	}
}

func TestAcknowledge(t *testing.T) {
	config := small(t.TempDir())
	s := open(t, config, Deps{})
	mustAppend(t, s, numbered(1, 60)...)
	before := len(segmentFiles(t, config.Dir))
	if err := s.Acknowledge(Position{1, 45}); err != nil {
		t.Fatal(err)
	}
	if err := s.Acknowledge(Position{1, 3}); err != nil {
		t.Errorf("an older acknowledgement: %v", err)
	}
	if got := s.Acknowledged(); got != (Position{1, 45}) {
		t.Errorf("acknowledged %v", got)
	}
	if got := s.Stats().Frames; got != 15 {
		t.Errorf("%d frames wait, want 15", got)
	}
	if after := len(segmentFiles(t, config.Dir)); after >= before {
		t.Errorf("%d segments, before the acknowledgement %d", after, before)
	}
	for _, future := range []Position{{1, 61}, {2, 0}} {
		if err := s.Acknowledge(future); !fault.Is(err, fault.Invalid) {
			t.Errorf("Acknowledge(%v) = %v, want an invalid fault", future, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, config, Deps{})
	if got := s.Acknowledged(); got != (Position{1, 45}) {
		t.Errorf("acknowledged after a restart: %v", got)
	}
	wantPayloads(t, s, s.Acknowledged(), numbered(46, 60))
	if err := s.Acknowledge(s.Last()); err != nil {
		t.Fatal(err)
	}
	if got := segmentFiles(t, config.Dir); len(got) != 0 {
		t.Errorf("segments left: %v", got)
	}
}

func TestFullSpoolDropsTheOldest(t *testing.T) {
	s := open(t, small(t.TempDir()), Deps{})
	want := numbered(1, 500)
	mustAppend(t, s, want...)
	stats := s.Stats()
	if stats.Bytes > s.config.MaxBytes {
		t.Errorf("spool holds %d bytes, allowed are %d", stats.Bytes, s.config.MaxBytes)
	}
	if stats.Dropped == 0 || stats.Dropped+stats.Frames != 500 {
		t.Errorf("stats = %+v, want dropped and frames to make 500", stats)
	}
	wantPayloads(t, s, Position{}, want[stats.Dropped:])
}

func TestAcknowledgedFramesAreNotCountedAsDropped(t *testing.T) {
	s := open(t, small(t.TempDir()), Deps{})
	for i := 1; i <= 500; i++ {
		if err := s.Acknowledge(mustAppend(t, s, numbered(i, i)...)); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.Stats(); got.Dropped != 0 || got.Frames != 0 {
		t.Errorf("stats = %+v", got)
	}
}

func TestReaderDoesNotDeliverWhatWasDropped(t *testing.T) {
	s := open(t, small(t.TempDir()), Deps{})
	mustAppend(t, s, numbered(1, 5)...)
	r := s.Follow(Position{})
	defer func() { _ = r.Close() }()
	if _, err := r.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, s, numbered(6, 500)...)
	record, err := r.Next(t.Context())
	if want := uint64(s.Stats().Dropped + 1); err != nil || record.Position.Sequence != want {
		t.Errorf("next = %v, %v, want sequence %d", record.Position, err, want)
	}
}

func TestSecondOpenIsRefused(t *testing.T) {
	config := small(t.TempDir())
	s := open(t, config, Deps{})
	if _, err := Open(config, Deps{}); !fault.Is(err, fault.Precondition) || fault.HintOf(err) == "" {
		t.Errorf("second Open = %v, want a precondition fault with a hint", err)
	}
	_ = s.Close()
	_ = open(t, config, Deps{}).Close()
}

func TestClosed(t *testing.T) {
	s := open(t, small(t.TempDir()), Deps{})
	r := s.Follow(Position{})
	got := make(chan error)
	go func() {
		_, err := r.Next(context.Background())
		got <- err
	}()
	testkit.Eventually(t, "the reader to wait", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.wake != nil })
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if err := <-got; !fault.Is(err, fault.Unavailable) {
		t.Errorf("reader: %v", err)
	}
	if _, err := s.Append([]byte("x")); !fault.Is(err, fault.Unavailable) {
		t.Errorf("append: %v", err)
	}
}

func TestRecordLargerThanASegmentIsRefused(t *testing.T) {
	s := open(t, small(t.TempDir()), Deps{})
	if _, err := s.Append(make([]byte, 2<<10)); !fault.Is(err, fault.Invalid) {
		t.Errorf("error = %v", err)
	}
	mustAppend(t, s, "x")
}

func TestConfigCheck(t *testing.T) {
	problems := func(c Config) (keys []string) {
		c.Check(func(key, _ string, _ ...any) { keys = append(keys, key) })
		return keys
	}
	if got := problems(Defaults("d")); got != nil {
		t.Errorf("default: %v", got)
	}
	want := []string{"dir", "segment_bytes", "max_bytes", "sync_interval"}
	if diff := cmp.Diff(want, problems(Config{MaxBytes: -1, SyncInterval: -1})); diff != "" {
		t.Error(diff)
	}
}
