package systemd

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

func TestStatesReachTheManager(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()
	t.Setenv("NOTIFY_SOCKET", path)
	m := FromEnvironment()
	for _, state := range []string{Ready, Alive, Stopping} {
		if err := m.Tell(state); err != nil {
			t.Fatal(err)
		}
		var data [64]byte
		n, err := socket.Read(data[:])
		if err != nil || string(data[:n]) != state {
			t.Errorf("the manager got %q, %v; want %q", data[:n], err, state)
		}
	}
	_ = os.Remove(path)
	if err := m.Tell(Alive); err == nil {
		t.Error("no error without a manager behind the socket")
	}
}

func TestEnvironment(t *testing.T) {
	pid := strconv.Itoa(os.Getpid())
	for name, tc := range map[string]struct {
		micros, pid string
		want        time.Duration
	}{
		"none":         {"", "", 0},
		"ours":         {"30000000", pid, 30 * time.Second},
		"anybody's":    {"1000", "", time.Millisecond},
		"another's":    {"30000000", "1", 0},
		"not a number": {"soon", pid, 0},
		"not positive": {"-5", pid, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("NOTIFY_SOCKET", "")
			t.Setenv("WATCHDOG_USEC", tc.micros)
			t.Setenv("WATCHDOG_PID", tc.pid)
			m := FromEnvironment()
			if got := m.Watchdog(); got != tc.want {
				t.Errorf("watchdog %v, want %v", got, tc.want)
			}
			if err := m.Tell(Ready); err != nil {
				t.Errorf("without a manager: %v", err)
			}
		})
	}
}
