package pipeline

import (
	"testing"
	"time"
)

func TestAgentsGoFirstAfterALongBatch(t *testing.T) {
	yes, no := func() bool { return true }, func() bool { return false }
	for _, c := range []struct {
		name string
		took time.Duration
		busy func() bool
		want time.Duration
	}{
		{"a short batch", shortBatch, yes, 0},
		{"nobody waits", time.Second, no, 0},
		{"nobody is asked", time.Second, nil, 0},
		{"as long as the batch", 50 * time.Millisecond, yes, 50 * time.Millisecond},
		{"never for long", time.Minute, yes, longestPause},
	} {
		if got := pause(c.took, c.busy); got != c.want {
			t.Errorf("%s: paused for %v, want %v", c.name, got, c.want)
		}
	}
}
