package kernel

import (
	"context"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A pipe is a log that can be waited for, as the kernel's is.
func TestAwaitEndsWhenTheLogGrows(t *testing.T) {
	m := newMachine(t)
	m.config.Log += ".pipe"
	if err := unix.Mkfifo(m.config.Log, 0o600); err != nil {
		t.Fatal(err)
	}
	kernel, err := os.OpenFile(m.config.Log, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = kernel.Close() }()
	c := m.start()
	m.collect(c)
	for round := range 3 {
		short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		c.Await(short)
		if short.Err() == nil {
			t.Errorf("round %d: it says that there is something where there is nothing", round)
		}
		cancel()
		long, cancel := context.WithTimeout(t.Context(), time.Minute)
		ended := make(chan struct{})
		go func() { c.Await(long); close(ended) }()
		m.say(round, m.now, xid79)
		<-ended
		if long.Err() != nil {
			t.Errorf("round %d: it was not told that the log grew", round)
		}
		cancel()
		m.collect(c)
	}
	if len(m.faults) != 3 {
		t.Errorf("faults %v", m.told())
	}
}

// A file that is a log is looked at every second, and one that is not there when
// the interval is over.
func TestAwaitOfAFile(t *testing.T) {
	m := newMachine(t)
	c := m.start()
	m.collect(c)
	if c.source.await(t.Context()) {
		t.Error("a file cannot be waited for, and it says that it was")
	}
	c.source.close()
	if c.source.await(t.Context()) {
		t.Error("there is no log, and it says that it was waited for")
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	c.Await(over) // returns
}
