package elastic

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// realEnv names the directory of an unpacked Elasticsearch 8;
// `make test-elasticsearch` sets it.
const realEnv = "VIGIL_ELASTICSEARCH"

// TestRealServer runs the suite against Elasticsearch itself.
func TestRealServer(t *testing.T) {
	home := os.Getenv(realEnv)
	if home == "" {
		t.Skip("make test-elasticsearch runs this against a real Elasticsearch; the suite itself ran against the fake")
	}
	url := startReal(t, home)
	suite(t, func(t *testing.T) server { return server{url: url, t: t} })
}

// startReal starts a node in a directory of its own, as a user without rights
// where this is root: Elasticsearch refuses to run as root.
func startReal(t *testing.T, home string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vigil-elasticsearch-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	config := filepath.Join(dir, "config")
	if err := os.CopyFS(config, os.DirFS(filepath.Join(home, "config"))); err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	settings := fmt.Sprintf(`discovery.type: single-node
network.host: 127.0.0.1
http.port: %d
transport.port: %d
http.max_content_length: 1mb
xpack.security.enabled: false
cluster.routing.allocation.disk.threshold_enabled: false
path.data: %s/data
path.logs: %s/logs
`, port, freePort(t), dir, dir)
	write := func(name, text string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(config, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(config, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("elasticsearch.yml", settings)
	write("jvm.options.d/heap.options", "-Xms512m\n-Xmx512m\n")
	options, err := os.ReadFile(filepath.Join(config, "jvm.options"))
	if err != nil {
		t.Fatal(err)
	}
	// These go to logs/ below the distribution, which is not this user's.
	var kept []string
	for line := range strings.Lines(string(options)) {
		if !strings.Contains(line, "logs/") && !strings.Contains(line, "HeapDump") {
			kept = append(kept, line)
		}
	}
	write("jvm.options", strings.Join(kept, ""))
	java, err := exec.LookPath("java")
	if err != nil {
		t.Fatal(err)
	}
	if java, err = filepath.EvalSymlinks(java); err != nil {
		t.Fatal(err)
	}
	command := exec.Command(filepath.Join(home, "bin", "elasticsearch"))
	if os.Getuid() == 0 {
		if out, err := exec.Command("chown", "-R", "nobody", dir).CombinedOutput(); err != nil {
			t.Fatalf("chown: %v %s", err, out)
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		command = exec.Command("runuser", "-u", "nobody", "--", command.Path)
	}
	command.Dir = dir
	command.Env = append(os.Environ(), "ES_PATH_CONF="+config, "ES_JAVA_HOME="+filepath.Dir(filepath.Dir(java)), "ES_TMPDIR="+dir)
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var output strings.Builder
	command.Stdout, command.Stderr = &output, &output
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = command.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL)
		<-ended
	})
	url := fmt.Sprintf("http://127.0.0.1:%d", port)
	deadline := time.Now().Add(5 * time.Minute)
	for {
		response, err := http.Get(url + "/_cluster/health")
		if err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return url
			}
		}
		select {
		case <-ended:
			t.Fatalf("Elasticsearch ended:\n%s", output.String())
		case <-time.After(200 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatal("Elasticsearch does not answer")
		}
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().(*net.TCPAddr).Port
}
