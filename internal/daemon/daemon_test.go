package daemon

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
)

type config struct {
	Node string `yaml:"node"`
	Port int    `yaml:"port"`
}

func program(run func(context.Context, config, io.Writer) error) Program[config] {
	return Program[config]{
		Name: "vigil-test", Summary: "Tests.",
		Defaults: func() config { return config{Node: "n1"} },
		Check: func(c config) error {
			if c.Port < 0 {
				return fault.New(fault.Invalid, "port is %d", c.Port)
			}
			return nil
		},
		Run: run,
	}
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestMain_endsWithoutRunning(t *testing.T) {
	good, bad, deep := file(t, "node: n2\n"), file(t, "nod: n2\nport: x\n"), file(t, "port: -1\n")
	for _, tc := range []struct {
		name           string
		args           []string
		code           int
		stdout, stderr string
	}{
		{"help", []string{"--help"}, 0, "Usage: vigil-test", ""},
		{"version", []string{"--version"}, 0, "vigil-test ", ""},
		{"unknown flag", []string{"--confg"}, 64, "", "hint: vigil-test --help lists the flags"},
		{"argument", []string{"now"}, 64, "", `argument "now" is not expected`},
		{"check", []string{"--config", good, "--check"}, 0, "good", ""},
		{"bad file", []string{"--config", bad}, 64, "", "nod: unknown key; did you mean \"node\"?\nvigil-test: " + bad + ":2: port: \"x\" is not a whole number"},
		{"bad value", []string{"--check", "--config", deep}, 64, "", "port is -1"},
		{"no file", []string{"--config", good + "x"}, 66, "", "no such file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := program(func(context.Context, config, io.Writer) error {
				t.Error("the program ran")
				return nil
			}).Main(tc.args, &stdout, &stderr)
			if code != tc.code || !strings.Contains(stdout.String(), tc.stdout) || !strings.Contains(stderr.String(), tc.stderr) {
				t.Errorf("code %d, stdout %q, stderr %q", code, &stdout, &stderr)
			}
		})
	}
}

func TestMain_runsUntilSignal(t *testing.T) {
	var stderr bytes.Buffer
	code := program(func(ctx context.Context, c config, _ io.Writer) error {
		if c.Node != "n1" {
			t.Errorf("node = %q", c.Node)
		}
		if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		<-ctx.Done()
		return fault.New(fault.Unavailable, "the store is away")
	}).Main(nil, io.Discard, &stderr)
	if code != 69 || stderr.String() != "vigil-test: the store is away\n" {
		t.Errorf("code %d, stderr %q", code, &stderr)
	}
}

// log is what a program writes, for several goroutines.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestMain_reloadsAtHangup(t *testing.T) {
	path := file(t, "node: n2\n")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Error(err)
		}
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Error(err)
		}
	}
	stderr := &log{}
	p := program(nil)
	p.RunReloading = func(ctx context.Context, c config, reloads <-chan config, _ io.Writer) error {
		if c.Node != "n2" {
			t.Errorf("began with node %q", c.Node)
		}
		write("node: n3\n")
		if c := <-reloads; c.Node != "n3" || ctx.Err() != nil {
			t.Errorf("reloaded node %q", c.Node)
		}
		write("nod: n4\nport: x\n")
		testkit.Eventually(t, "both mistakes", func() bool {
			return strings.Contains(stderr.String(), "unknown key") && strings.Contains(stderr.String(), "not a whole number")
		})
		write("port: -1\n")
		testkit.Eventually(t, "the mistake that decoding does not see", func() bool { return strings.Contains(stderr.String(), "port is -1") })
		select {
		case c := <-reloads:
			t.Errorf("a bad file came through: %v", c)
		default:
		}
		write("node: n5\nport: 7\n")
		if c := <-reloads; c != (config{"n5", 7}) {
			t.Errorf("after the mistakes: %v", c)
		}
		return fault.New(fault.Unavailable, "done")
	}
	if code := p.Main([]string{"--config", path}, io.Discard, stderr); code != 69 {
		t.Errorf("code %d, stderr %s", code, stderr)
	}
	if n := strings.Count(stderr.String(), "the old configuration stays"); n != 2 {
		t.Errorf("said %d times that the old one stays:\n%s", n, stderr)
	}
}
