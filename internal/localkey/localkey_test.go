package localkey

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/vigil-ml/vigil/internal/fault"
)

func TestLeaveAndFind(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	take, err := Leave(Dir(), "127.0.0.1:8080", Operator, "s1")
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]string{
		"127.0.0.1:8080": "s1", "localhost:8080": "s1", "[::1]:8080": "s1",
		"127.0.0.1:8081": "", "192.0.2.1:8080": "", "example.org:8080": "", "nonsense": "",
	} {
		if got, err := Find(address, Operator); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", address, got, err, want)
		}
	}
	if got, _ := Find("127.0.0.1:8080", Join); got != "" {
		t.Errorf("a secret of another kind: %q", got)
	}
	path := filepath.Join(Dir(), "8080.token")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file %v, %v", info, err)
	}
	// Another server has the port by now: its secret stays.
	if _, err := Leave(Dir(), "127.0.0.1:8080", Operator, "s2"); err != nil {
		t.Fatal(err)
	}
	if err := take(); err != nil {
		t.Fatal(err)
	}
	if got, _ := Find("127.0.0.1:8080", Operator); got != "s2" {
		t.Errorf("after the first server took its own back: %q", got)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Find("127.0.0.1:8080", Operator); !fault.Is(err, fault.Denied) {
		t.Errorf("a file that others read: %v", err)
	}
}

func TestLeaveRefuses(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Leave(dir, "127.0.0.1:1", Operator, "s"); !fault.Is(err, fault.Denied) {
		t.Errorf("a directory that others write to: %v", err)
	}
	if _, err := Leave(t.TempDir(), "127.0.0.1:../../x", Operator, "s"); !fault.Is(err, fault.Invalid) {
		t.Errorf("a port that is a path: %v", err)
	}
}
