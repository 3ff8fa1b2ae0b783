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

// What another user could have written is not carried out: it may list
// processes that are not this user's.
func TestDirectoriesOfOthersAreLeftAlone(t *testing.T) {
	parent := t.TempDir()
	plant := func(name string, mode os.FileMode) string {
		path := filepath.Join(parent, directoryPrefix+name)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(path, lockName), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	open, mine := plant("open", 0o777), plant("mine", 0o700)
	elsewhere := filepath.Join(t.TempDir(), "target")
	if err := os.Rename(plant("moved", 0o700), elsewhere); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(parent, directoryPrefix+"link")
	if err := os.Symlink(elsewhere, link); err != nil {
		t.Fatal(err)
	}
	foreign := open
	if os.Geteuid() == 0 {
		foreign = plant("foreign", 0o700)
		if err := os.Chown(foreign, 12345, 12345); err != nil {
			t.Fatal(err)
		}
	}
	sweep(parent)
	for path, there := range map[string]bool{open: true, foreign: true, link: true, elsewhere: true, mine: false} {
		if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) == there {
			t.Errorf("%s: %v, want it there: %v", path, err, there)
		}
	}
}

// A supervisor that ends tries again what it could not remove when it began.
func TestTheLastOneSweeps(t *testing.T) {
	parent := t.TempDir()
	killed, err := makeDirectory(parent)
	if err != nil {
		t.Fatal(err)
	}
	next, err := makeDirectory(parent)
	if err != nil {
		t.Fatal(err)
	}
	_ = killed.lock.Close() // it was not dead yet when the next one began
	next.remove()
	if entries, err := os.ReadDir(parent); err != nil || len(entries) != 0 {
		t.Errorf("left are %v, %v; want nothing", entries, err)
	}
}
