package localapi_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vigil-ml/vigil/agent/localapi"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

// at makes an API that only serves.
func at(t *testing.T, socket string) *localapi.API {
	metrics := prometheus.NewRegistry()
	return localapi.New(localapi.Defaults(socket), localapi.Deps{
		Log: testkit.Logger(t), Metrics: metrics, Sessions: localapi.NewSessions(metrics),
	})
}

func TestSocketIsPrivate(t *testing.T) {
	n := serve(t)
	n.register(registration("run", 0))
	for path, want := range map[string]os.FileMode{n.socket: 0o600, filepath.Dir(n.socket): 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %o", path, info.Mode(), err, want)
		}
	}
}

// TestSocketsDirectoryCanBePassed: by whomever the socket is for, whatever the umask.
func TestSocketsDirectoryCanBePassed(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	for mode, want := range map[string]os.FileMode{"0600": 0o700, "0660": 0o710, "0666": 0o711} {
		dir := filepath.Join(t.TempDir(), "run")
		serveWith(t, nil, func(c *localapi.Config) { c.Socket, c.SocketMode = filepath.Join(dir, "s"), mode })
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != want {
			t.Errorf("for a socket of mode %s: %v, %v; want %04o", mode, info.Mode(), err, want)
		}
	}
}

func TestLiveSocketIsLeftAlone(t *testing.T) {
	n := serve(t)
	n.register(registration("run", 0))
	if err := at(t, n.socket).Run(t.Context()); !fault.Is(err, fault.Exists) || !strings.Contains(err.Error(), "another agent") {
		t.Errorf("second agent: %v", err)
	}
	n.register(registration("run", 1))
}

func TestStaleSocketIsReplaced(t *testing.T) {
	n := makeNode(t)
	if err := os.MkdirAll(filepath.Dir(n.socket), 0o700); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", n.socket)
	if err != nil {
		t.Fatal(err)
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false) // as a killed agent leaves it
	_ = listener.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.api.Run(ctx) }()
	n.client = trainerv1.NewTrainerServiceClient(dial(t, n.socket))
	n.register(registration("run", 0))
	cancel()
	if err := <-done; err != nil {
		t.Errorf("run: %v", err)
	}
}

func TestSocketsThatAreRefused(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	open := filepath.Join(dir, "open")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(dir, "foreign")
	listener, err := net.Listen("unix", foreign)
	if err != nil {
		t.Skipf("listen: %v", err)
	}
	defer func() { _ = listener.Close() }()
	for path, want := range map[string]fault.Kind{
		file:                     fault.Exists,
		foreign:                  fault.Exists,
		filepath.Join(open, "s"): fault.Denied,
		filepath.Join(dir, "sub", "file", "\x00"): fault.Internal,
		"/tmp/" + strings.Repeat("x", 120):        fault.Invalid,
	} {
		if err := at(t, path).Run(t.Context()); fault.KindOf(err) != want {
			t.Errorf("%q: %v; want it to be %s", path, err, want)
		}
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "precious" {
		t.Errorf("the file that stood there: %q, %v", data, err)
	}
}

// A watch does not hold up the end of the agent, and the trainer is not taken
// to be away because of it.
func TestStopWithAWatch(t *testing.T) {
	n := makeNode(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.api.Run(ctx) }()
	n.client = trainerv1.NewTrainerServiceClient(dial(t, n.socket))
	stream := n.watch(t.Context(), n.register(registration("run", 0)))
	gone := n.sessions.Gone(n.sessions.Trainers("run")[0])
	cancel()
	if _, err := stream.Recv(); !fault.Is(fault.FromGRPC(err), fault.Unavailable) {
		t.Errorf("the watch ended with %v", err)
	}
	if err := <-done; err != nil {
		t.Errorf("run: %v", err)
	}
	if closed(gone) {
		t.Error("the trainer is taken to be away")
	}
}
