package chaos

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
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

	"github.com/zeebo/blake3"

	"github.com/vigil-ml/vigil/internal/testkit"
)

const (
	s3Access = "vigilchaos"
	s3Secret = "vigilchaossecret"
	bucket   = "bucket"
	// copyLimit is when a copy counts as one that does not become complete.
	copyLimit = 60 * time.Second
)

// second is the second store: a real S3 server over a directory.
type second struct {
	home, address string
	server        *part
}

// openSecond starts a server; nil where there is none on this machine.
func openSecond(dir string) *second {
	if _, err := exec.LookPath("versitygw"); err != nil {
		return nil
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil
	}
	s := &second{home: filepath.Join(dir, "s3"), address: listener.Addr().String()}
	_ = listener.Close()
	for _, name := range []string{"data/" + bucket, "iam", "meta"} {
		if os.MkdirAll(filepath.Join(s.home, name), 0o700) != nil {
			return nil
		}
	}
	if s.start() != nil {
		return nil
	}
	return s
}

func (s *second) start() (err error) {
	s.server, err = launch(filepath.Join(s.home, "log"), nil, "versitygw", "--access", s3Access, "--secret", s3Secret, "--port", s.address,
		"--iam-dir", filepath.Join(s.home, "iam"), "posix", "--sidecar", filepath.Join(s.home, "meta"), filepath.Join(s.home, "data"))
	return err
}

// settings is the agent's part of the configuration.
func (s *second) settings() string {
	if s == nil {
		return ""
	}
	return fmt.Sprintf(`, replica: {kind: s3, settings: {endpoint: %q, bucket: %s, region: us-east-1, insecure: true, access_key_env: CHAOS_ACCESS, secret_key_env: CHAOS_SECRET}}`,
		s.address, bucket)
}

func (s *second) environ() []string {
	return []string{"CHAOS_ACCESS=" + s3Access, "CHAOS_SECRET=" + s3Secret}
}

// fail has the server fail in one of three ways for as long as rest takes.
func (s *second) fail(how kind, rest func()) {
	switch how {
	case stopSecond: // it takes connections and says nothing
		_ = s.server.cmd.Process.Signal(syscall.SIGSTOP)
		rest()
		_ = s.server.cmd.Process.Signal(syscall.SIGCONT)
		return
	case refuseSecond: // it answers that it cannot
		s.server.kill()
		refusing := &http.Server{Addr: s.address, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "slow down", http.StatusServiceUnavailable)
		})}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = refusing.ListenAndServe()
		}()
		rest()
		_ = refusing.Close()
		<-done
	case killSecond:
		s.server.kill()
		rest()
	}
	_ = s.start()
}

// again has a server that ended by itself, as when its port was taken, start anew.
func (s *second) again() {
	if s.server.over() {
		_ = s.start()
	}
}

func (s *second) close() {
	_ = s.server.cmd.Process.Signal(syscall.SIGCONT)
	s.server.kill()
}

// marked tells whether a rank's directory has the mark of a verified rank, one
// that can be read whole and speaks of the manifest beside it. With a flipped bit
// anywhere in it the agent takes the rank for one that was not verified.
func marked(rankDir string) bool {
	var mark struct {
		Manifest string    `json:"manifest_sha256"`
		Verified time.Time `json:"verified"`
	}
	text, err := os.ReadFile(filepath.Join(rankDir, "verified.json"))
	manifest, manifestErr := os.ReadFile(filepath.Join(rankDir, "manifest.json"))
	sum := sha256.Sum256(manifest)
	return err == nil && manifestErr == nil && json.Unmarshal(text, &mark) == nil && mark.Manifest == hex.EncodeToString(sum[:])
}

// ranks gives the directories of ranks in a vault, or in a copy of one, that count.
func ranks(dir string) (all []string) {
	paths, _ := filepath.Glob(filepath.Join(dir, runID, "*", "rank-*"))
	for _, path := range paths {
		if marked(path) {
			all = append(all, path)
		}
	}
	return all
}

// uncopied waits until all that is verified has its copy, and gives what has none
// or a wrong one.
func (w *world) uncopied() (all []string) {
	if w.second == nil {
		return nil
	}
	deadline := time.Now().Add(copyLimit)
	for {
		all = nil
		for _, path := range ranks(w.vault()) {
			if _, err := os.Lstat(filepath.Join(path, "replicated.json")); err != nil {
				all = append(all, "has no copy: "+strings.TrimPrefix(path, w.dir))
			}
		}
		if len(all) == 0 || time.Now().After(deadline) {
			break
		}
		w.second.again()
		time.Sleep(50 * time.Millisecond)
	}
	copies := ranks(filepath.Join(w.second.home, "data", bucket))
	w.copies = len(copies)
	for _, path := range copies {
		if wrong := wrongFile(path); wrong != "" {
			all = append(all, "the copy is damaged: "+wrong)
		}
	}
	return all
}

// wrongFile reads a rank's files and gives the first that its manifest does not
// speak of so.
func wrongFile(rankDir string) string {
	var manifest struct {
		Files []struct {
			Name   string `json:"name"`
			BLAKE3 string `json:"blake3"`
		} `json:"files"`
	}
	text, err := os.ReadFile(filepath.Join(rankDir, "manifest.json"))
	if err != nil || json.Unmarshal(text, &manifest) != nil || len(manifest.Files) == 0 {
		return filepath.Join(rankDir, "manifest.json")
	}
	for _, f := range manifest.Files {
		path := filepath.Join(rankDir, "files", filepath.FromSlash(f.Name))
		data, err := os.ReadFile(path)
		if sum := blake3.Sum256(data); err != nil || hex.EncodeToString(sum[:]) != f.BLAKE3 {
			return path
		}
	}
	return ""
}

// Runs without an S3 server say nothing of outages.
func TestSecondStoreIsThere(t *testing.T) {
	testkit.Require(t, "versitygw")
	s := openSecond(t.TempDir())
	if s == nil {
		t.Fatal("it does not start")
	}
	defer s.close()
	for _, how := range []kind{stopSecond, refuseSecond, killSecond} {
		s.fail(how, func() {})
		testkit.Eventually(t, "it to answer after "+string(how), func() bool {
			s.again()
			client := &http.Client{Timeout: time.Second}
			answer, err := client.Get("http://" + s.address + "/" + bucket)
			if err != nil {
				return false
			}
			_ = answer.Body.Close()
			return answer.StatusCode == http.StatusForbidden // we gave no key
		})
	}
}

// The judge of copies sees what is wrong with one.
func TestADamagedCopyIsSeen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), runID, "ck", "rank-00000")
	sum := blake3.Sum256([]byte("weights"))
	manifest := fmt.Sprintf(`{"files":[{"name":"w","blake3":"%x"}]}`, sum)
	mark := fmt.Sprintf(`{"manifest_sha256":"%x","verified":"2026-11-28T10:04:32Z"}`, sha256.Sum256([]byte(manifest)))
	if err := os.MkdirAll(filepath.Join(dir, "files"), 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("manifest.json", manifest)
	write("verified.json", mark)
	if wrongFile(dir) == "" || !marked(dir) {
		t.Error("a copy without its file is taken for whole")
	}
	write("files/w", "weights")
	if wrong := wrongFile(dir); wrong != "" {
		t.Errorf("a whole copy is not: %s", wrong)
	}
	write("files/w", "weighty")
	if wrongFile(dir) == "" {
		t.Error("a flipped copy is taken for whole")
	}
	write("verified.json", strings.Replace(mark, "T10:", "U10:", 1))
	if marked(dir) {
		t.Error("a mark that is damaged counts, and the agent does not copy what it is of")
	}
	write("verified.json", mark)
	write("manifest.json", manifest+" ")
	if marked(dir) {
		t.Error("a mark of another manifest counts")
	}
}
