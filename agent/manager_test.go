package agent

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/agent/spool"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/systemd"
	"github.com/vigil-ml/vigil/internal/testkit"
)

func TestTheServiceManagerHearsOnlyOfAnAgentThatLives(t *testing.T) {
	dir := t.TempDir()
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = manager.Close() }()
	t.Setenv("NOTIFY_SOCKET", filepath.Join(dir, "notify"))
	t.Setenv("WATCHDOG_USEC", strconv.Itoa(20_000))
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	hears := func(want string) {
		t.Helper()
		data := make([]byte, 64)
		if n, err := manager.Read(data); err != nil || string(data[:n]) != want {
			t.Fatalf("the manager hears %q, %v; want %q", data[:n], err, want)
		}
	}
	a := &agent{log: testkit.Logger(t), config: Defaults()}
	a.config.Trainers.Socket = filepath.Join(dir, "s")
	for into, class := range map[**spool.Spool]string{&a.events: "events", &a.samples: "samples"} {
		if *into, err = spool.Open(spool.Defaults(filepath.Join(dir, class)), spool.Deps{}); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = (*into).Close() }()
	}
	group := life.NewGroup(context.Background())
	group.Go("manage", a.manage)
	trainers, err := net.Listen("unix", a.config.Trainers.Socket) // from now on it is ready
	if err != nil {
		t.Fatal(err)
	}
	hears(systemd.Ready)
	hears(systemd.Alive)
	hears(systemd.Alive)
	_ = trainers.Close()
	// What was sent before the socket went may still come; then nothing does.
	quiet := 0
	for quiet < 3 {
		_ = manager.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if _, err := manager.Read(make([]byte, 64)); err != nil {
			quiet++
		}
	}
	_ = manager.SetReadDeadline(time.Time{})
	group.Stop()
	hears(systemd.Stopping)
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}
