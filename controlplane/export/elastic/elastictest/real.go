package elastictest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/testkit"
)

// realEnv names the directory of an unpacked Elasticsearch 8;
// `make test-elasticsearch` sets it.
const realEnv = "VIGIL_ELASTICSEARCH"

// Home is where an unpacked Elasticsearch is; "" when tests are to do with the
// fake.
func Home() string { return os.Getenv(realEnv) }

// Real is an Elasticsearch itself, on loopback, with a directory of its own. Its
// largest request is 1 MiB. It is for one goroutine.
type Real struct {
	t         testing.TB
	home, dir string
	url       string
	command   *exec.Cmd
	group     *life.Group
	ended     chan struct{}
}

// StartReal starts a node that ends with the test; as a user without rights where
// this is root, since Elasticsearch refuses to run as root. Without [Home] the
// test is skipped.
func StartReal(t testing.TB) *Real {
	t.Helper()
	if Home() == "" {
		t.Skip("make test-elasticsearch runs this against a real Elasticsearch; the suite itself ran against the fake")
	}
	dir, err := os.MkdirTemp("", "vigil-elasticsearch-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r := &Real{t: t, home: Home(), dir: dir}
	r.configure()
	r.Run()
	t.Cleanup(r.Kill)
	return r
}

// URL is where it listens.
func (r *Real) URL() string { return r.url }

func (r *Real) write(name, text string) {
	r.t.Helper()
	path := filepath.Join(r.dir, "config", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r *Real) configure() {
	r.t.Helper()
	if err := os.CopyFS(filepath.Join(r.dir, "config"), os.DirFS(filepath.Join(r.home, "config"))); err != nil {
		r.t.Fatal(err)
	}
	port := testkit.FreePort(r.t)
	r.url = "http://127.0.0.1:" + port
	r.write("elasticsearch.yml", fmt.Sprintf(`discovery.type: single-node
network.host: 127.0.0.1
http.port: %s
transport.port: %s
http.max_content_length: 1mb
xpack.security.enabled: false
cluster.routing.allocation.disk.threshold_enabled: false
path.data: %s/data
path.logs: %s/logs
`, port, testkit.FreePort(r.t), r.dir, r.dir))
	r.write("jvm.options.d/heap.options", "-Xms512m\n-Xmx512m\n")
	options, err := os.ReadFile(filepath.Join(r.dir, "config", "jvm.options"))
	if err != nil {
		r.t.Fatal(err)
	}
	// These go to logs/ below the distribution, which is not this user's.
	var kept []string
	for line := range strings.Lines(string(options)) {
		if !strings.Contains(line, "logs/") && !strings.Contains(line, "HeapDump") {
			kept = append(kept, line)
		}
	}
	r.write("jvm.options", strings.Join(kept, ""))
	if os.Getuid() != 0 {
		return
	}
	if out, err := exec.Command("chown", "-R", "nobody", r.dir).CombinedOutput(); err != nil {
		r.t.Fatalf("chown: %v %s", err, out)
	}
	if err := os.Chmod(r.dir, 0o755); err != nil {
		r.t.Fatal(err)
	}
}

// Run starts the node, again after Kill: on the same port, with what it had.
func (r *Real) Run() {
	r.t.Helper()
	java, err := exec.LookPath("java")
	if err != nil {
		r.t.Fatal(err)
	}
	if java, err = filepath.EvalSymlinks(java); err != nil {
		r.t.Fatal(err)
	}
	command := exec.Command(filepath.Join(r.home, "bin", "elasticsearch"))
	if os.Getuid() == 0 {
		command = exec.Command("runuser", "-u", "nobody", "--", command.Path)
	}
	command.Dir = r.dir
	command.Env = append(os.Environ(), "ES_PATH_CONF="+filepath.Join(r.dir, "config"), "ES_JAVA_HOME="+filepath.Dir(filepath.Dir(java)), "ES_TMPDIR="+r.dir)
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var output bytes.Buffer
	command.Stdout, command.Stderr = &output, &output
	if err := command.Start(); err != nil {
		r.t.Fatal(err)
	}
	ended := make(chan struct{})
	r.command, r.group, r.ended = command, life.NewGroup(context.Background()), ended
	r.group.Go("elasticsearch", func(context.Context) error {
		_ = command.Wait() // it is killed
		close(ended)
		return nil
	})
	for deadline := time.Now().Add(5 * time.Minute); !r.answers(); {
		select {
		case <-ended:
			r.t.Fatalf("Elasticsearch ended:\n%s", output.String())
		case <-time.After(200 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			r.t.Fatal("Elasticsearch does not answer")
		}
	}
}

func (r *Real) answers() bool {
	response, err := http.Get(r.url + "/_cluster/health")
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// Kill ends the node with SIGKILL, and waits for it.
func (r *Real) Kill() {
	_ = syscall.Kill(-r.command.Process.Pid, syscall.SIGKILL)
	<-r.ended
	_ = r.group.Wait()
}

// IDs gives how often each id is in a data stream, in all its indices together.
func (r *Real) IDs(stream string) map[string]int {
	r.t.Helper()
	ids := map[string]int{}
	if code, _ := r.ask(http.MethodPost, "/"+stream+"/_refresh", ""); code == http.StatusNotFound {
		return ids
	}
	code, body := r.ask(http.MethodPost, "/"+stream+"/_search?scroll=1m", `{"size": 1000, "_source": false, "sort": ["_doc"]}`)
	for {
		var page struct {
			Scroll string `json:"_scroll_id"`
			Hits   struct {
				Hits []struct {
					ID string `json:"_id"`
				} `json:"hits"`
			} `json:"hits"`
		}
		if err := json.Unmarshal(body, &page); code != http.StatusOK || err != nil {
			r.t.Fatalf("search %s: %d %s", stream, code, body)
		}
		for _, hit := range page.Hits.Hits {
			ids[hit.ID]++
		}
		if len(page.Hits.Hits) == 0 {
			r.ask(http.MethodDelete, "/_search/scroll", fmt.Sprintf(`{"scroll_id": %q}`, page.Scroll))
			return ids
		}
		code, body = r.ask(http.MethodPost, "/_search/scroll", fmt.Sprintf(`{"scroll": "1m", "scroll_id": %q}`, page.Scroll))
	}
}

func (r *Real) ask(method, path, body string) (int, []byte) {
	r.t.Helper()
	request, err := http.NewRequestWithContext(context.Background(), method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return response.StatusCode, text
}

// IDs gives how often each id is in a data stream of the fake.
func (s *Server) IDs(stream string) map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := map[string]int{}
	if d := s.streams[stream]; d != nil {
		for _, index := range d.indices {
			for id := range index {
				ids[id]++
			}
		}
	}
	return ids
}
