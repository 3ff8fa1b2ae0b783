package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/site"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// limit ends a test that hangs; nothing is asserted of it.
const limit = 2 * time.Minute

func TestMain(m *testing.M) {
	if dir := os.Getenv(rankVariable); dir != "" {
		os.Exit(rank(dir))
	}
	os.Exit(withPrograms(m.Run))
}

// withPrograms builds the programs, as they are now, for the tests.
func withPrograms(run func() int) int {
	dir, err := os.MkdirTemp("", "vigil-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	build := exec.Command("go", "build", "-o", dir+"/", "../vigil-agent", "../vigil-controlplane", "../vigil-trainer", "../agentctl")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the programs: %v\n%s", err, out)
		return 1
	}
	if err := os.Setenv(binVariable, dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return run()
}

const binVariable = "VIGIL_E2E_BIN"

// noKernel keeps an agent's eyes off the machine's own kernel log: other tests have
// processes killed for want of memory, and that is no business of these.
const noKernel = "collectors: {kernel: {off: true}}\n"

// house is a site under test.
type house struct {
	*site.Site
	t            *testing.T
	ctx          context.Context
	controlPlane *site.Process
	agent        *site.Process
	controlMore  string
}

// open starts a control plane and an agent; more is YAML for their
// configurations.
func open(t *testing.T, controlMore, agentMore string) *house {
	t.Helper()
	return openFor(t, limit, controlMore, agentMore)
}

// openFor is open for a test that may take longer.
func openFor(t *testing.T, limit time.Duration, controlMore, agentMore string) *house {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	s, err := site.Plan(filepath.Join(t.TempDir(), "site"), os.Getenv(binVariable))
	if err != nil {
		t.Fatal(err)
	}
	h := &house{Site: s, t: t, ctx: ctx, controlMore: controlMore}
	t.Cleanup(func() {
		h.close()
		cancel()
	})
	h.startControlPlane()
	if !strings.Contains(agentMore, "collectors:") {
		agentMore += noKernel
	}
	if h.agent, err = s.Agent(ctx, agentMore); err != nil {
		t.Fatal(err)
	}
	if _, err := s.AwaitNode(ctx); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *house) startControlPlane() {
	h.t.Helper()
	p, err := h.ControlPlane(h.ctx, h.controlMore)
	if err != nil {
		h.t.Fatal(err)
	}
	h.controlPlane = p
}

// close stops everything; a program that does not stop when asked is an error.
func (h *house) close() {
	for _, p := range []*site.Process{h.agent, h.controlPlane} {
		if p != nil {
			if err := p.Stop(); err != nil {
				h.t.Error(err)
			}
		}
	}
	if h.t.Failed() {
		h.logs()
	}
	if err := h.Close(); err != nil {
		h.t.Error(err)
	}
}

func (h *house) logs() {
	files, _ := filepath.Glob(h.Path("*.log"))
	for _, name := range files {
		text, _ := os.ReadFile(name)
		if len(text) > 8<<10 {
			text = text[len(text)-8<<10:]
		}
		h.t.Logf("%s:\n%s", filepath.Base(name), text)
	}
}

// train starts a supervised reference trainer and kills it with the test.
func (h *house) train(run string, args ...string) *site.Process {
	h.t.Helper()
	p, err := h.Train(run, args...)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(p.Kill)
	return p
}

func (h *house) await(run string, holds func(*controlv1.GetRunResponse) bool) *controlv1.GetRunResponse {
	h.t.Helper()
	out, err := h.AwaitRun(h.ctx, run, holds)
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

func succeeded(r *controlv1.GetRunResponse) bool {
	return r.Run.State == controlv1.RunState_RUN_STATE_SUCCEEDED
}

// events reads a run's whole history.
func (h *house) events(run string) []*commonv1.Event {
	h.t.Helper()
	stream, err := controlv1.NewRunServiceClient(h.Conn()).WatchEvents(h.ctx, &controlv1.WatchEventsRequest{RunId: run})
	if err != nil {
		h.t.Fatal(err)
	}
	var events []*commonv1.Event
	for {
		got, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return events
		}
		if err != nil {
			h.t.Fatalf("watch events of %s: %v", run, fault.FromGRPC(err))
		}
		if e := got.GetEvent().GetEvent(); e != nil {
			events = append(events, e)
		}
	}
}

// agentctl runs a command and gives what it printed and its exit code.
func (h *house) agentctl(args ...string) (stdout, stderr string, code int) {
	h.t.Helper()
	cmd := exec.CommandContext(h.ctx, filepath.Join(h.Bin, "agentctl"), append([]string{"--server", h.API}, args...)...)
	var out, errOut strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return out.String(), errOut.String(), exit.ExitCode()
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return out.String(), errOut.String(), 0
}
