package supervise

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestDirectoriesOfTheDeadAreRemoved(t *testing.T) {
	parent := t.TempDir()
	dead, err := makeDirectory(parent)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dead.path, "exit-0.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_ = dead.lock.Close() // as the kernel does
	alive, err := makeDirectory(parent)
	if err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(parent, directoryPrefix+"notes")
	if err := os.Mkdir(foreign, 0o700); err != nil {
		t.Fatal(err)
	}
	last, err := makeDirectory(parent)
	if err != nil {
		t.Fatal(err)
	}
	for path, there := range map[string]bool{dead.path: false, alive.path: true, foreign: true, last.path: true} {
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) == there {
			t.Errorf("%s: %v, want it there: %v", path, err, there)
		}
	}
	alive.remove()
	last.remove()
	if entries, err := os.ReadDir(parent); err != nil || len(entries) != 1 {
		t.Errorf("left are %v, %v; want the foreign one alone", entries, err)
	}
}
