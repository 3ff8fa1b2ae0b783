package supervise

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/vigil-ml/vigil/trainer/supervise/cgroup"
)

const (
	// directoryPrefix begins the names of directories for exit reports. A hidden
	// one is not locked yet.
	directoryPrefix = "vigil-trainer-"
	// lockName is the file that is locked. A directory without one is not ours,
	// whatever it is called.
	lockName = ".vigil-supervisor"
	// groupsName is the file that lists the control groups that were made, one a
	// line.
	groupsName = "control-groups"
)

// directory is where one supervisor's commands leave their exit reports. It is
// locked for as long as the supervisor lives: whoever gets the lock may remove
// it. A process id in the name would not do, as containers that share a
// temporary directory count processes differently.
type directory struct {
	path string
	lock *os.File
}

// makeDirectory makes a directory below parent, after removing those that
// supervisors which were killed have left there.
func makeDirectory(parent string) (*directory, error) {
	sweep(parent)
	hidden, err := os.MkdirTemp(parent, "."+directoryPrefix)
	if err != nil {
		return nil, err
	}
	lock, err := lockDirectory(hidden, os.O_CREATE|os.O_EXCL)
	if err == nil {
		// Only now a sweep may find it.
		d := &directory{path: filepath.Join(parent, strings.TrimPrefix(filepath.Base(hidden), ".")), lock: lock}
		if err = os.Rename(hidden, d.path); err == nil {
			return d, nil
		}
		_ = lock.Close()
	}
	_ = os.RemoveAll(hidden)
	return nil, err
}

// remove removes the directory with all that is in it, and what a sweep could not
// remove at the beginning: processes that were killed take a moment to be gone.
func (d *directory) remove() {
	_ = os.RemoveAll(d.path)
	_ = d.lock.Close()
	sweep(filepath.Dir(d.path))
}

// sweep removes this user's directories below parent whose supervisor is gone,
// and ends the processes that it left. What cannot be removed is tried again the
// next time.
func sweep(parent string) {
	paths, _ := filepath.Glob(filepath.Join(parent, directoryPrefix+"*"))
	for _, path := range paths {
		if !own(path) {
			continue
		}
		if lock, err := lockDirectory(path, 0); err == nil {
			// Of what it supervised the command died with it, and its helpers may not
			// have. The list of their groups is kept until these are gone.
			if cgroup.Clear(readLines(filepath.Join(path, groupsName))) == nil {
				sweepDescendants(marker(path+"/"), false)
				_ = os.RemoveAll(path)
			}
			_ = lock.Close()
		}
	}
}

// own tells whether only this user can have written into a directory: whoever
// could, could have processes killed that are not theirs by what they list there.
func own(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.IsDir() || info.Mode().Perm()&0o022 != 0 {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}

// readLines gives a file's lines; none where it is not there.
func readLines(path string) []string {
	text, _ := os.ReadFile(path)
	return strings.Fields(string(text))
}

// lockDirectory takes a directory's lock, which the kernel gives back at the
// end of the process, or fails at once. Flags are added for opening its file.
func lockDirectory(path string, flags int) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDWR|syscall.O_NOFOLLOW|flags, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("lock directory %s: %w", path, err)
	}
	return lock, nil
}
