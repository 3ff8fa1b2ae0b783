package pipeline

import (
	"testing"
	"time"
)

func TestTideIsHighWhileVeryMuchIsFound(t *testing.T) {
	var tide tide
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for _, step := range []struct {
		after    time.Duration
		findings int
		high     bool
	}{
		{0, 1, false},
		{100 * time.Millisecond, tideFindings, true},
		{time.Millisecond, 0, true},
		{tideWithin, 1, true}, // it goes on
		{tideWithin + time.Millisecond, 0, false},
		{time.Millisecond, 10, false},
		{10 * tideWithin, tideFindings, false},
		{time.Millisecond, 1, true},
		{10 * tideWithin, 1, false},
	} {
		now = now.Add(step.after)
		if got := tide.high(step.findings, now); got != step.high {
			t.Errorf("at %v with %d findings it is high: %v, want %v", now.Format("05.000"), step.findings, got, step.high)
		}
	}
}

func TestWhatComesOneAfterTheOtherDoesNotGather(t *testing.T) {
	var tide tide
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for i := range 2 * tideFindings {
		if tide.gathers(1, now) {
			t.Fatalf("finding %d alone waits for others", i)
		}
	}
	if !tide.gathers(2, now) {
		t.Error("what piles up does not gather")
	}
}
