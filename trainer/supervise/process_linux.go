package supervise

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vigil-ml/vigil/internal/protocol"
)

const (
	sweepRounds = 50
	sweepPause  = 10 * time.Millisecond
)

// groupLeader has a command lead a process group, and die with the supervisor
// should that be killed.
func groupLeader() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// adoptOrphans has processes whose parents end become the supervisor's children,
// also those that left their process group: so they are found.
func adoptOrphans() error { return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }

// sweepDescendants kills whoever carries the marker in its environment or
// descends from one who does, in rounds, until nobody is left: what is killed
// may have been about to fork. Adopted has the supervisor's own children killed
// too, whatever they carry. It gives how many it killed.
func sweepDescendants(marker string, adopted bool) int {
	killed := map[int]bool{}
	for range sweepRounds {
		found := false
		for _, pid := range descendants(marker, adopted) {
			found = true
			killed[pid] = true
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if !found {
			break
		}
		time.Sleep(sweepPause)
	}
	return len(killed)
}

// descendants gives the living processes with the marker, and those that
// descend from them. Of children that ended already the supervisor takes note
// here, as nobody else waits for them.
func descendants(marker string, adopted bool) []int {
	processes, _ := filepath.Glob("/proc/[0-9]*")
	own := os.Getpid()
	parents := map[int]int{}
	var found []int
	for _, dir := range processes {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == own {
			continue
		}
		parent, state := statOf(dir)
		environ, _ := os.ReadFile(filepath.Join(dir, "environ"))
		marked := bytes.Contains(environ, []byte(marker)) || (adopted && parent == own)
		if state == 'Z' && parent == own {
			// Not the command itself: that is waited for before the sweep. Where
			// nobody is adopted it is a child of somebody else in this process.
			if adopted {
				_, _ = syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
			}
			continue
		}
		if state == 'Z' || state == 'X' {
			continue
		}
		parents[pid] = parent
		if marked {
			found = append(found, pid)
		}
	}
	for n := 0; n < len(found); n++ { // found grows
		for pid, parent := range parents {
			if parent == found[n] && !slices.Contains(found, pid) {
				found = append(found, pid)
			}
		}
	}
	return found
}

// statOf gives a process' parent and state; 0 when it is gone.
func statOf(dir string) (parent int, state byte) {
	text, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return 0, 0
	}
	// The name, in parentheses, may have anything in it.
	_, rest, found := strings.Cut(string(text[bytes.LastIndexByte(text, ')')+1:]), " ")
	fields := strings.Fields(rest)
	if !found || len(fields) < 2 {
		return 0, 0
	}
	parent, _ = strconv.Atoi(fields[1])
	return parent, fields[0][0]
}

// marker is what a command and all that descends from it have in their
// environment, unless they take it away.
func marker(exitFile string) string { return protocol.EnvExitFile + "=" + exitFile }
