// Package natscluster runs a NATS cluster for tests: real servers with
// JetStream, each a process of its own that can be killed and started again.
package natscluster

import (
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// childVariable has the settings of a server in the environment of a process
// that is to be one.
const childVariable = "VIGIL_TEST_NATS_SERVER"

// settings of one server.
type settings struct {
	Name, Dir              string
	ClientPort, ServerPort int
	Routes                 []string
}

// Child makes this process a server until it is killed, where it was started to
// be one, and else gives false. TestMain calls it first.
func Child() bool {
	text, ok := os.LookupEnv(childVariable)
	if !ok {
		return false
	}
	if err := serve(text); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return true
}

func serve(text string) error {
	var s settings
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return err
	}
	options := &server.Options{
		ServerName: s.Name, Host: "127.0.0.1", Port: s.ClientPort, NoSigs: true, MaxPayload: 8 << 20,
		JetStream: true, StoreDir: s.Dir, JetStreamMaxStore: 1 << 30, JetStreamMaxMemory: 64 << 20, LogFile: s.Dir + ".log",
		Cluster: server.ClusterOpts{Name: "vigil", Host: "127.0.0.1", Port: s.ServerPort},
	}
	for _, route := range s.Routes {
		u, err := url.Parse(route)
		if err != nil {
			return err
		}
		options.Routes = append(options.Routes, u)
	}
	srv, err := server.NewServer(options)
	if err != nil {
		return err
	}
	srv.ConfigureLogger()
	srv.Start()
	srv.WaitForShutdown()
	return nil
}

// Cluster is servers on loopback that end with their test.
type Cluster struct {
	servers   []settings
	processes []*exec.Cmd
}

// Start starts so many servers and waits until they have a leader.
func Start(t testing.TB, servers int) *Cluster {
	t.Helper()
	c := &Cluster{processes: make([]*exec.Cmd, servers)}
	dir := t.TempDir()
	var routes []string
	for i := range servers {
		s := settings{Name: fmt.Sprint("n", i), Dir: filepath.Join(dir, fmt.Sprint("n", i)), ClientPort: freePort(t), ServerPort: freePort(t)}
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", s.ServerPort))
		c.servers = append(c.servers, s)
	}
	t.Cleanup(func() {
		for i := range c.servers {
			c.Kill(i)
		}
	})
	for i := range c.servers {
		c.servers[i].Routes = routes
		c.Run(t, i)
	}
	c.wait(t)
	return c
}

// Run starts a server, again after [Cluster.Kill]. It does not wait.
func (c *Cluster) Run(t testing.TB, i int) {
	t.Helper()
	text, err := json.Marshal(c.servers[i])
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childVariable+"="+string(text))
	child.Stderr = os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := child.Start(); err != nil {
		t.Fatalf("start NATS server %d: %v", i, err)
	}
	c.processes[i] = child
}

// Kill kills a server: kill -9.
func (c *Cluster) Kill(i int) {
	if child := c.processes[i]; child != nil {
		_ = child.Process.Kill()
		_ = child.Wait()
		c.processes[i] = nil
	}
}

// Size is how many servers there are.
func (c *Cluster) Size() int { return len(c.servers) }

// URL names all servers.
func (c *Cluster) URL() string {
	var urls []string
	for _, s := range c.servers {
		urls = append(urls, "nats://127.0.0.1:"+strconv.Itoa(s.ClientPort))
	}
	return strings.Join(urls, ",")
}

// wait waits until JetStream has a leader.
func (c *Cluster) wait(t testing.TB) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := c.answers(t)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited a minute for the NATS cluster: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (c *Cluster) answers(t testing.TB) error {
	conn, err := nats.Connect(c.URL())
	if err != nil {
		return err
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return err
	}
	_, err = js.AccountInfo(t.Context())
	return err
}

func freePort(t testing.TB) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
