package controlplane_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/vigil-ml/vigil/controlplane"
	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/testkit/natscluster"
)

// replicaVariable names the configuration to a process that is to be a replica.
const replicaVariable = "VIGIL_TEST_REPLICA"

func TestMain(m *testing.M) {
	if natscluster.Child() || replicaChild() {
		return
	}
	os.Exit(m.Run())
}

// replicaChild makes this process a control plane where it was started to be
// one.
func replicaChild() bool {
	path, ok := os.LookupEnv(replicaVariable)
	if !ok {
		return false
	}
	config := controlplane.Defaults()
	text, err := os.ReadFile(path)
	if err == nil {
		err = conf.Decode(path, text, &config)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err == nil {
		err = controlplane.Run(ctx, config, os.Stderr)
	}
	fmt.Fprintln(os.Stderr, "replica ends:", err)
	return true
}

// replica is one control plane as a process that can be killed.
type replica struct {
	config, agents, api, log string
	process                  *exec.Cmd
}

// newReplica writes the configuration of a replica on ports of its own.
func newReplica(t *testing.T, name, shared string) *replica {
	t.Helper()
	dir := t.TempDir()
	r := &replica{config: filepath.Join(dir, "config.yaml"), log: filepath.Join(dir, "log"), agents: freeAddress(t), api: freeAddress(t)}
	text := fmt.Sprintf("state_dir: %s\napi: {listen: %q}\nagents: {listen: %q}\n%s", filepath.Join(dir, name), r.api, r.agents, shared)
	if err := os.WriteFile(r.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.kill()
		if log, err := os.ReadFile(r.log); err == nil && t.Failed() {
			t.Logf("log of %s:\n%s", name, log[max(0, len(log)-6000):])
		}
	})
	return r
}

func (r *replica) run(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(r.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	r.process = exec.Command(os.Args[0])
	r.process.Env = append(os.Environ(), replicaVariable+"="+r.config)
	r.process.Stdout, r.process.Stderr = log, log
	r.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := r.process.Start(); err != nil {
		t.Fatal(err)
	}
}

// kill kills it: kill -9.
func (r *replica) kill() {
	if r.process != nil {
		_ = r.process.Process.Kill()
		_ = r.process.Wait()
		r.process = nil
	}
}

// stop asks it to end, and waits until it has: kill -TERM.
func (r *replica) stop(t *testing.T) {
	t.Helper()
	if err := r.process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := r.process.Wait(); err != nil {
		t.Errorf("a replica that was told to stop: %v", err)
	}
	r.process = nil
}

// logged counts the lines of its log that have a text.
func (r *replica) logged(t *testing.T, text string) (lines int) {
	t.Helper()
	log, err := os.ReadFile(r.log)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(log, []byte(text))
}

// ready tells whether it is, by /readyz.
func (r *replica) ready() bool {
	response, err := http.Get("http://" + r.api + "/readyz")
	if err != nil {
		return false
	}
	return response.Body.Close() == nil && response.StatusCode == http.StatusOK
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
