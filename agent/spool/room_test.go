package spool

import (
	"strings"
	"syscall"
	"testing"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit/faultfs"
)

// pair is events and samples under one budget, as the agent has them.
func pair(t *testing.T, budget int64, disk *faultfs.FS) (events, samples *Spool) {
	t.Helper()
	shared := NewBudget(budget)
	samples = open(t, small(t.TempDir()), Deps{Class: "samples", Budget: shared, FS: disk})
	events = open(t, small(t.TempDir()), Deps{Class: "events", Budget: shared, Yields: samples, FS: disk})
	return events, samples
}

func TestSamplesGiveWayToEventsAndEventsGoLast(t *testing.T) {
	const budget = 6 << 10
	events, samples := pair(t, budget, faultfs.New())
	mustAppend(t, samples, numbered(1, 60)...)
	if n := samples.Stats().Dropped; n != 0 {
		t.Fatalf("%d samples dropped within the budget", n)
	}
	held := 0
	for i := 1; samples.Stats().Bytes > 0; i++ {
		mustAppend(t, events, numbered(i, i)...)
		if got := events.Stats().Bytes + samples.Stats().Bytes; got > budget {
			t.Fatalf("%d bytes of %d", got, budget)
		}
		if n := events.Stats().Dropped; n > 0 {
			t.Fatalf("%d events dropped while samples are there", n)
		}
		held = i
	}
	if n := samples.Stats().Dropped; n != 60 {
		t.Errorf("%d samples dropped, want 60", n)
	}
	wantPayloads(t, events, Position{}, numbered(1, held))
	for events.Stats().Dropped == 0 { // only now
		held++
		mustAppend(t, events, numbered(held, held)...)
	}
	if got := events.Stats().Bytes; got > budget || got < budget-2<<10 {
		t.Errorf("events hold %d bytes of %d", got, budget)
	}
}

func TestSamplesNeverTakeTheRoomOfEvents(t *testing.T) {
	events, samples := pair(t, 4<<10, faultfs.New())
	n := 0
	for events.Stats().Bytes < 4<<10-64 {
		n++
		mustAppend(t, events, numbered(n, n)...)
	}
	_, err := samples.Append([]byte(numbered(1, 1)[0]))
	if !fault.Is(err, fault.Exhausted) || !strings.Contains(err.Error(), "what matters more") || fault.HintOf(err) == "" {
		t.Errorf("append samples: %v", err)
	}
	if err := events.Acknowledge(events.Last()); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, events, "the next segment lets go of the last")
	mustAppend(t, samples, "room again")
	if got := events.Stats().Dropped; got != 0 {
		t.Errorf("%d events dropped", got)
	}
}

// The disk may be full of other people's files.
func TestAFullDiskTakesSamplesFirst(t *testing.T) {
	disk := faultfs.New()
	events, samples := pair(t, 1<<20, disk)
	mustAppend(t, samples, numbered(1, 50)...)
	mustAppend(t, events, numbered(1, 3)...)
	left := 1 // segments of samples that must go before there is room
	disk.FailWith(func(op faultfs.Op, path string) error {
		switch {
		case op == faultfs.Remove:
			left--
		case op == faultfs.Write && left > 0:
			return syscall.ENOSPC
		}
		return nil
	})
	mustAppend(t, events, numbered(4, 4)...)
	disk.FailWith(nil)
	wantPayloads(t, events, Position{}, numbered(1, 4))
	if n := samples.Stats().Dropped; n == 0 || n == 50 {
		t.Errorf("%d of 50 samples gave way", n)
	}
	before := samples.Stats().Frames
	disk.FailWith(only(faultfs.Write))
	if _, err := events.Append([]byte("x")); !fault.Is(err, fault.Exhausted) {
		t.Errorf("no room at all: %v", err)
	}
	if left := samples.Stats().Frames; left == 0 || left == before {
		t.Errorf("%d of %d samples are left: one segment may go for nothing, not all", left, before)
	}
}

func TestTheBudgetCountsWhatIsFoundOnTheDisk(t *testing.T) {
	config := small(t.TempDir())
	s := open(t, config, Deps{})
	mustAppend(t, s, numbered(1, 60)...)
	_ = s.Close()
	shared := NewBudget(6 << 10)
	s = open(t, config, Deps{Budget: shared})
	if got, want := shared.used.Load(), s.Stats().Bytes; got != want || got == 0 {
		t.Errorf("the budget counts %d bytes, the spool %d", got, want)
	}
	mustAppend(t, s, numbered(61, 200)...)
	if got := shared.used.Load(); got > 6<<10 || got != s.Stats().Bytes {
		t.Errorf("the budget counts %d bytes, the spool %d", got, s.Stats().Bytes)
	}
}
