package main

import (
	"bufio"
	"context"
	"io"
	"strings"
	"testing"
)

// A person who follows a run's events sees those that come, until Ctrl-C.
func TestFollowGoesOnUntilInterrupted(t *testing.T) {
	in := install(t, t.TempDir(), t.Cleanup)
	if err := seed(in, nil); err != nil {
		t.Fatal(err)
	}
	t.Setenv("VIGIL_TOKEN", in.doors.Secret)
	ctx, interrupt := context.WithCancel(t.Context())
	read, write := io.Pipe()
	var stderr strings.Builder
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, []string{"--server", in.address, "get", "events", "--run", "digits-7f3a", "--follow"}, write, &stderr)
		_ = write.Close()
	}()
	lines := bufio.NewScanner(read)
	for range 10 {
		if !lines.Scan() {
			t.Fatalf("output ended: %v", lines.Err())
		}
	}
	if err := in.publish("digits-7f3a", 11, stepEvent(1413)); err != nil {
		t.Fatal(err)
	}
	if !lines.Scan() || !strings.Contains(lines.Text(), "step 1413") {
		t.Errorf("a new event is shown as %q", lines.Text())
	}
	interrupt()
	if code := <-done; code != 130 || stderr.String() != "agentctl: interrupted\n" {
		t.Errorf("ended with exit code %d and %q, want 130", code, stderr.String())
	}
}
