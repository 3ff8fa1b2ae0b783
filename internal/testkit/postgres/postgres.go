// Package postgres runs a PostgreSQL server for tests.
package postgres

import (
	"bytes"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/internal/testkit"
)

// Server is a running PostgreSQL. It listens on loopback and ends with its
// test.
type Server struct {
	bin, dir string
	settings []string
	port     int
	as       *syscall.SysProcAttr // whom the server runs as
	process  *exec.Cmd
	log      *bytes.Buffer
	schemas  atomic.Int64
}

// Start starts an empty server, with settings such as "fsync=off" where no
// crash is to be survived. Where PostgreSQL is not installed the test is
// skipped, or fails where VIGIL_REQUIRE asks for it.
func Start(t testing.TB, settings ...string) *Server {
	t.Helper()
	places, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	slices.Sort(places)
	slices.Reverse(places) // Debian does not put it on the path
	program, err := filepath.EvalSymlinks(testkit.Require(t, "postgres", places...))
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{bin: filepath.Dir(program), settings: settings, log: &bytes.Buffer{}}
	if s.dir, err = os.MkdirTemp("", "vigil-postgres-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(s.dir) })
	if err := s.unprivileged(); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(s.dir, "data")
	initdb := exec.Command(filepath.Join(s.bin, "initdb"), "-D", data, "-U", "vigil", "-A", "trust", "-E", "UTF8",
		"--locale=C", "--no-sync", "--no-instructions")
	initdb.SysProcAttr, initdb.Dir = s.as, s.dir
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("make a database: %v: %s", err, out)
	}
	if s.port, err = freePort(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	s.Run(t)
	return s
}

// unprivileged has the server run as somebody else than root, which it refuses.
func (s *Server) unprivileged() error {
	s.as = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		return nil
	}
	who, err := user.Lookup("postgres")
	if err != nil {
		return fmt.Errorf("find the user to run PostgreSQL as: %w", err)
	}
	uid, _ := strconv.Atoi(who.Uid)
	gid, _ := strconv.Atoi(who.Gid)
	s.as.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return os.Chown(s.dir, uid, gid)
}

// Run starts the server, again after [Server.Kill], and waits until it answers.
func (s *Server) Run(t testing.TB) {
	t.Helper()
	args := []string{"-D", filepath.Join(s.dir, "data"), "-k", s.dir, "-h", "127.0.0.1", "-p", strconv.Itoa(s.port)}
	for _, setting := range append([]string{"max_connections=200", "shared_buffers=32MB"}, s.settings...) {
		args = append(args, "-c", setting)
	}
	s.process = exec.Command(filepath.Join(s.bin, "postgres"), args...)
	s.process.SysProcAttr, s.process.Dir = s.as, s.dir
	s.process.Stdout, s.process.Stderr = s.log, s.log
	if err := s.process.Start(); err != nil {
		t.Fatalf("start PostgreSQL: %v", err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		out, err := s.psql("SELECT 1")
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.stop()
			t.Fatalf("waited a minute for PostgreSQL: %v: %s%s", err, out, s.log)
		}
	}
}

// Kill kills the server as a crash would; what it had told to be committed is
// in its log.
func (s *Server) Kill() {
	_ = s.process.Process.Signal(syscall.SIGQUIT) // "immediate": it leaves at once and recovers next time
	_ = s.process.Wait()
}

func (s *Server) stop() {
	if s.process == nil || s.process.ProcessState != nil {
		return
	}
	s.Kill()
}

// URL makes an empty schema on each call and names it.
func (s *Server) URL(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("s%d", s.schemas.Add(1))
	if out, err := s.psql("CREATE SCHEMA " + name); err != nil {
		t.Fatalf("make schema %s: %v: %s", name, err, out)
	}
	return (&url.URL{
		Scheme: "postgres", User: url.User("vigil"), Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)), Path: "postgres",
		RawQuery: url.Values{"search_path": {name}, "sslmode": {"disable"}}.Encode(),
	}).String()
}

// Exec runs a statement in the schema that a URL of [Server.URL] names.
func (s *Server) Exec(t testing.TB, at, statement string) {
	t.Helper()
	u, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := s.psql("SET search_path = " + u.Query().Get("search_path") + "; " + statement); err != nil {
		t.Fatalf("run %s: %v: %s", statement, err, out)
	}
}

func (s *Server) psql(statement string) ([]byte, error) {
	return exec.Command(filepath.Join(s.bin, "psql"), "-qX", "-h", "127.0.0.1", "-p", strconv.Itoa(s.port),
		"-U", "vigil", "-d", "postgres", "-c", statement).CombinedOutput()
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
