// Package site runs one whole installation on this machine, each program as a
// process of its own: for the demonstration and for tests of the whole.
package site

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/localkey"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const (
	// StartWait is how long a part may take to be ready.
	StartWait = 30 * time.Second
	pollEvery = 20 * time.Millisecond
)

// Site is one installation: where it lies and where it listens. Methods are
// for one goroutine, Conn for many.
type Site struct {
	Dir     string // configuration, state and logs
	Bin     string // where the programs are
	API     string // host:port of the operator API
	Agents  string // host:port for agents
	Metrics string // host:port of the agent's metrics and health
	Socket  string // the agent's unix socket

	conn   *grpc.ClientConn
	short  string
	unlock func()
}

// Plan chooses addresses for an installation in a fresh directory: what lay
// there is removed, unless a living site has it. The ports are any that are
// free, so that several sites can be planned at once. The caller closes the site.
func Plan(dir, bin string) (*Site, error) { return plan(dir, bin, 0, 0, 0) }

// PlanUsual is Plan with the usual ports where they are free.
func PlanUsual(dir, bin string) (*Site, error) { return plan(dir, bin, 8080, 7443, 9464) }

func plan(dir, bin string, api, agents, metrics int) (*Site, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", dir, err)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of %s: %w", dir, err)
	}
	unlock, err := durable.Lock(dir+".lock", "the site")
	if err != nil {
		return nil, err
	}
	if err := os.RemoveAll(dir); err != nil {
		return nil, fmt.Errorf("clear %s: %w", dir, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make %s: %w", dir, err)
	}
	// A unix socket's path must be short, and dir may be long.
	short, err := os.MkdirTemp("", "vigil-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the socket: %w", err)
	}
	s := &Site{Dir: dir, Bin: bin, Socket: filepath.Join(short, "agent.sock"), short: short, unlock: unlock}
	for addr, preferred := range map[*string]int{&s.API: api, &s.Agents: agents, &s.Metrics: metrics} {
		if *addr, err = freeAddress(preferred); err != nil {
			return nil, err
		}
	}
	s.conn, err = grpc.NewClient(s.API, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithPerRPCCredentials(door{s.API}))
	if err != nil {
		return nil, fmt.Errorf("open connection to %s: %w", s.API, err)
	}
	return s, nil
}

// door brings the secret that the control plane left for its own user, as it is
// at each call: a control plane that was started again has another.
type door struct{ address string }

// GetRequestMetadata gives the header.
func (d door) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	secret, err := localkey.Find(d.address, localkey.Operator)
	if err != nil || secret == "" {
		return nil, err
	}
	return map[string]string{"authorization": "Bearer " + secret}, nil
}

// RequireTransportSecurity is not needed: the site is on loopback.
func (door) RequireTransportSecurity() bool { return false }

// Close closes the connection and removes the socket's directory.
func (s *Site) Close() error {
	defer s.unlock()
	return errors.Join(s.conn.Close(), os.RemoveAll(s.short))
}

// Authorize has an HTTP request come from the control plane's own user.
func (s *Site) Authorize(r *http.Request) error {
	headers, err := door{s.API}.GetRequestMetadata(r.Context())
	for name, value := range headers {
		r.Header.Set(name, value)
	}
	return err
}

// Conn is a connection to the operator API.
func (s *Site) Conn() *grpc.ClientConn { return s.conn }

// Path is a file of the site.
func (s *Site) Path(name string) string { return filepath.Join(s.Dir, name) }

// freeAddress gives a loopback address: the preferred port, or any when that
// is taken.
func freeAddress(preferred int) (string, error) {
	for _, port := range []int{preferred, 0} {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		return l.Addr().String(), l.Close()
	}
	return "", fault.New(fault.Unavailable, "find a free loopback port: there is none")
}

// ControlPlane starts the control plane and waits until it is healthy. More is
// YAML that is added to its configuration.
func (s *Site) ControlPlane(ctx context.Context, more string) (*Process, error) {
	config := fmt.Sprintf("state_dir: %s\napi: {listen: %q}\nagents: {listen: %q}\n", s.Path("controlplane"), s.API, s.Agents)
	return s.daemon(ctx, "vigil-controlplane", "http://"+s.API+"/healthz", config+more)
}

// Agent starts the agent and waits until it is healthy. More is YAML that is
// added to its configuration. What the kernel said before is not told: a site is
// to show what happens in it, and not what happened to this machine in the last
// hour.
func (s *Site) Agent(ctx context.Context, more string) (*Process, error) {
	const list, quiet = "collectors:\n", "  kernel: {settings: {history: 0s}}\n"
	switch {
	case strings.Contains(more, "kernel:"):
	case strings.Contains(more, list):
		more = strings.Replace(more, list, list+quiet, 1)
	default:
		more += list + quiet
	}
	config := fmt.Sprintf("state_dir: %s\nlisten: %q\ntrainers: {socket: %s}\nuplink: {address: %q}\n", s.Path("agent"), s.Metrics, s.Socket, s.Agents)
	return s.daemon(ctx, "vigil-agent", "http://"+s.Metrics+"/healthz", config+more)
}

func (s *Site) daemon(ctx context.Context, program, health, config string) (*Process, error) {
	path := s.Path(program + ".yaml")
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		return nil, fmt.Errorf("write configuration of %s: %w", program, err)
	}
	p, err := start(s.Path(program+".log"), nil, filepath.Join(s.Bin, program), "--config", path)
	if err != nil {
		return nil, err
	}
	deadline := time.After(StartWait)
	for !healthy(ctx, health) {
		select {
		case <-p.Done():
			return nil, fault.New(fault.Unavailable, "start %s: it ended: %v; see %s", program, p.err, p.Log)
		case <-deadline:
			p.Kill()
			return nil, fault.New(fault.Deadline, "start %s: it is not healthy after %v; see %s", program, StartWait, p.Log)
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), p.Stop())
		case <-time.After(pollEvery):
		}
	}
	return p, nil
}

func healthy(ctx context.Context, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	// Without keep-alive: the listener may be another process the next time.
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
}

// Train starts the reference trainer under a supervisor; its output goes to
// <run>.log.
func (s *Site) Train(run string, args ...string) (*Process, error) {
	return s.Supervise(run, nil, append([]string{filepath.Join(s.Bin, "vigil-trainer"), "train"}, args...)...)
}

// Supervise starts a command under a supervisor, with more of an environment as
// NAME=value; its output goes to <run>.log.
func (s *Site) Supervise(run string, environ []string, command ...string) (*Process, error) {
	return s.SuperviseWith(run, nil, environ, command...)
}

// SuperviseWith is Supervise with more flags of the supervisor's.
func (s *Site) SuperviseWith(run string, flags, environ []string, command ...string) (*Process, error) {
	args := slices.Concat([]string{"run", "--socket", s.Socket, "--run-id", run}, flags, []string{"--"}, command)
	return start(s.Path(run+".log"), environ, filepath.Join(s.Bin, "vigil-trainer"), args...)
}

// AwaitNode waits until a node's agent is connected and has said how its
// collectors are.
func (s *Site) AwaitNode(ctx context.Context) (*controlv1.Node, error) {
	var node *controlv1.Node
	err := poll(ctx, "an agent", func(ctx context.Context) (bool, error) {
		out, err := controlv1.NewNodeServiceClient(s.conn).ListNodes(ctx, &controlv1.ListNodesRequest{})
		if err != nil {
			return false, err
		}
		for _, n := range out.Nodes {
			if n.State == controlv1.NodeState_NODE_STATE_CONNECTED && len(n.Collectors) > 0 {
				node = n
			}
		}
		return node != nil, nil
	})
	return node, err
}

// AwaitRun waits until a run fulfils a condition; nil asks only that it is
// known.
func (s *Site) AwaitRun(ctx context.Context, run string, holds func(*controlv1.GetRunResponse) bool) (*controlv1.GetRunResponse, error) {
	var last *controlv1.GetRunResponse
	err := poll(ctx, "run "+run, func(ctx context.Context) (bool, error) {
		out, err := controlv1.NewRunServiceClient(s.conn).GetRun(ctx, &controlv1.GetRunRequest{RunId: run})
		if fault.Is(fault.FromGRPC(err), fault.NotFound) {
			return false, nil
		}
		last = out
		return err == nil && (holds == nil || holds(out)), err
	})
	return last, err
}

// poll asks until it is told yes, for at most StartWait.
func poll(ctx context.Context, what string, ask func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, StartWait)
	defer cancel()
	for {
		ok, err := ask(ctx)
		if ok {
			return nil
		}
		if ctx.Err() != nil {
			return fault.New(fault.Deadline, "wait for %s: not within %v (%v)", what, StartWait, err)
		}
		if err != nil && !fault.Is(err, fault.Unavailable) {
			return fmt.Errorf("wait for %s: %w", what, fault.FromGRPC(err))
		}
		time.Sleep(pollEvery)
	}
}
