package python_test

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/internal/site"
	"github.com/vigil-ml/vigil/internal/testkit"
)

// limit ends a benchmark that hangs; nothing is asserted of it. A test ends so
// long before go test's own limit that what it started is stopped.
const (
	limit    = 8 * time.Minute
	stopping = 30 * time.Second
)

func within(t testing.TB) (context.Context, context.CancelFunc) {
	end := time.Now().Add(limit)
	if test, ok := t.(*testing.T); ok {
		if last, limited := test.Deadline(); limited {
			end = last.Add(-stopping)
		}
	}
	return context.WithDeadline(context.Background(), end)
}

// interpreter is the Python whose packages the tests use: VIGIL_PYTHON, such as
// that of a virtual environment, or Debian's.
func interpreter(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("VIGIL_PYTHON"); path != "" {
		return testkit.Require(t, path)
	}
	return testkit.Require(t, "/usr/bin/python3")
}

// TestPython runs the SDK's own tests, each file of them against one
// installation of an agent and a control plane.
func TestPython(t *testing.T) {
	python := interpreter(t)
	house := open(t)
	files, err := filepath.Glob("tests/test_*.py")
	if err != nil || len(files) == 0 {
		t.Fatalf("no tests: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".py")
		t.Run(name, func(t *testing.T) { house.run(t, python, name) })
	}
}

type house struct {
	*site.Site
	ctx context.Context
}

// open starts a control plane and an agent for the test.
func open(t testing.TB) *house {
	t.Helper()
	ctx, cancel := within(t)
	t.Cleanup(cancel)
	bin := t.TempDir()
	build := exec.CommandContext(ctx, "go", "build", "-o", bin+"/", "../../cmd/vigil-agent", "../../cmd/vigil-controlplane", "../../cmd/vigil-trainer", "../../cmd/agentctl")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the programs: %v\n%s", err, out)
	}
	s, err := site.Plan(filepath.Join(t.TempDir(), "site"), bin)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, start := range []func(context.Context, string) (*site.Process, error){s.ControlPlane, s.Agent} {
		p, err := start(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := p.Stop(); err != nil {
				t.Error(err)
			}
		})
	}
	if _, err := s.AwaitNode(ctx); err != nil {
		t.Fatal(err)
	}
	return &house{Site: s, ctx: ctx}
}

// BenchmarkSDK prints what the SDK costs in the training thread, once.
func BenchmarkSDK(b *testing.B) {
	python := interpreter(b)
	house := open(b)
	cmd := house.python(b, python, "bench/sdk.py")
	cmd.Env = append(cmd.Env, "VIGIL_SOCKET="+house.Socket, "VIGIL_RUN_ID=bench-sdk")
	show(b, cmd)
}

// BenchmarkSave prints how long training stands still for a checkpoint, once.
func BenchmarkSave(b *testing.B) {
	python := interpreter(b)
	show(b, open(b).python(b, python, "bench/save.py"))
}

func show(b *testing.B, cmd *exec.Cmd) {
	b.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	b.Logf("\n%s", out)
}

// python is a command of the interpreter that finds the SDK, its tests, and who
// answers them.
func (h *house) python(t testing.TB, python string, args ...string) *exec.Cmd {
	t.Helper()
	operator, err := http.NewRequestWithContext(h.ctx, http.MethodPost, "http://"+h.API, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Authorize(operator); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(h.ctx, python, append([]string{"-W", "ignore::DeprecationWarning"}, args...)...)
	cmd.Env = append(os.Environ(),
		"PYTHONPATH=.:tests", "PYTHONDONTWRITEBYTECODE=1", "OMP_NUM_THREADS=1", "CUDA_VISIBLE_DEVICES=",
		"VIGIL_SOCKET=", "VIGIL_RUN_ID=", "VIGIL_EXIT_FILE=",
		"VIGIL_TEST_SOCKET="+h.Socket, "VIGIL_TEST_API="+h.API, "VIGIL_TEST_AUTHORIZATION="+operator.Header.Get("Authorization"), "VIGIL_TEST_BIN="+h.Bin)
	return cmd
}

// run runs one file of tests. What it skips for want of a package is skipped
// here too, or fails where VIGIL_REQUIRE asks for it.
func (h *house) run(t *testing.T, python, name string) {
	t.Helper()
	cmd := h.python(t, python, "-m", "unittest", "-v", name)
	out, err := cmd.CombinedOutput()
	text := string(out)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if !strings.Contains(text, "\nRan ") || strings.Contains(text, "\nRan 0 tests") {
		t.Fatalf("no test ran:\n%s", text)
	}
	for line := range strings.Lines(text) {
		if _, reason, skipped := strings.Cut(line, " ... skipped "); skipped {
			t.Run(strings.Fields(line)[0], func(t *testing.T) { skip(t, strings.TrimSpace(reason)) })
		}
	}
}

// skip skips what Python skipped: "needs PACKAGE" obeys VIGIL_REQUIRE where
// Debian has the package, as testkit does for programs.
func skip(t *testing.T, reason string) {
	if _, name, needs := strings.Cut(strings.Trim(reason, `'"`), "needs "); needs && (name == "torch" || name == "numpy") {
		if required := os.Getenv("VIGIL_REQUIRE"); required == "all" || strings.Contains(required, name) {
			t.Fatalf("%s is not installed and VIGIL_REQUIRE=%s asks for it", name, required)
		}
	}
	t.Skip(reason)
}
