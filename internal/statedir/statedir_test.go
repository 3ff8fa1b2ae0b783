package statedir

import (
	"os"
	"path/filepath"
	"testing"
)

func TestDefault(t *testing.T) {
	t.Setenv("HOME", "/home/u")
	for xdg, want := range map[string]string{
		"":         "/home/u/.local/state/vigil/agent",
		"relative": "/home/u/.local/state/vigil/agent",
		"/s":       "/s/vigil/agent",
	} {
		t.Setenv("XDG_STATE_HOME", xdg)
		if got := Default("agent"); got != want {
			t.Errorf("XDG_STATE_HOME=%q: %s, want %s", xdg, got, want)
		}
	}
	t.Setenv("HOME", "")
	t.Setenv("XDG_STATE_HOME", "")
	if got := Default("agent"); got != "/var/lib/vigil/agent" {
		t.Errorf("without a home: %s", got)
	}
}

func TestSettle(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	below, absolute := "spool", "/elsewhere"
	if err := Settle(dir, &below, &absolute); err != nil {
		t.Fatal(err)
	}
	if below != filepath.Join(dir, "spool") || absolute != "/elsewhere" {
		t.Errorf("paths are %s and %s", below, absolute)
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v", info, err)
	}
	if err := Settle("/dev/null/x"); err == nil {
		t.Error("a directory below a file was made")
	}
}
