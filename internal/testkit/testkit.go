// Package testkit is what tests of every package share.
package testkit

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Require gives the path of a program that the test talks to for real. Where
// it is not installed, neither on the path nor at one of the other places, the
// test is skipped, or fails when VIGIL_REQUIRE names the program or is "all".
func Require(t testing.TB, program string, places ...string) string {
	t.Helper()
	for _, place := range append([]string{program}, places...) {
		if path, err := exec.LookPath(place); err == nil {
			return path
		}
	}
	lacks(t, program)
	return ""
}

// Torch gives the Python that Debian's PyTorch is for. Where it is not installed
// the test is skipped, or fails as with Require, by the name torch.
func Torch(t testing.TB) string {
	t.Helper()
	if _, err := os.Stat("/usr/lib/python3/dist-packages/torch"); err != nil {
		lacks(t, "torch")
	}
	return "/usr/bin/python3"
}

// AskTorch has a Python script answer a question with PyTorch, as [Torch] has it:
// JSON on its standard input, JSON on its standard output.
func AskTorch(t testing.TB, script string, question, answer any) {
	t.Helper()
	python := Torch(t)
	text, err := json.Marshal(question)
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd := exec.CommandContext(t.Context(), python, "-W", "ignore", script)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(text), &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, said.String())
	}
	if err := json.Unmarshal(out, answer); err != nil {
		t.Fatalf("%s answers %.200s: %v", script, out, err)
	}
}

// lacks skips a test for want of something, or fails it.
func lacks(t testing.TB, program string) {
	t.Helper()
	required := os.Getenv("VIGIL_REQUIRE")
	for name := range strings.SplitSeq(required, ",") {
		if name == "all" || name == program {
			t.Fatalf("%s is not installed and VIGIL_REQUIRE=%s asks for it", program, required)
		}
	}
	t.Skipf("%s is not installed", program)
}

// RequireRoot skips a test that must be several users, where it is not run by the
// one who can be all of them.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("root is not who runs the test")
	}
}

// Eventually waits until a condition holds and fails the test when it does not
// within a minute. The bound is there so that a broken test ends, not to
// assert a speed.
func Eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute) // a guard against hanging, also on a machine that does much else
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("waited a minute for %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// FreePort gives a TCP port of loopback that nobody listened on a moment ago, for
// programs that must be told one.
func FreePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// Logger writes to the test's log.
func Logger(t testing.TB) *slog.Logger {
	t.Helper()
	return slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", strings.TrimRight(string(p), "\n"))
	return len(p), nil
}
