package family

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/vigil-ml/vigil/agent/collect/sysfile"
	"github.com/vigil-ml/vigil/internal/fault"
)

// Group gives the control group of a process, version 2, as a path below the
// tree's root; empty when the process is not there any more or is in none. A
// group above what this process may see is an error that says so.
func Group(read *sysfile.Reader, proc string, pid int64) (string, error) {
	if pid <= 0 {
		return "", nil
	}
	data, err := read.Read(proc + "/" + strconv.FormatInt(pid, 10) + "/cgroup")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("find control group: %w", err)
	}
	for line := range sysfile.Lines(data) {
		where, ok := bytes.CutPrefix(line, []byte("0::"))
		if !ok {
			continue
		}
		if bytes.HasPrefix(where, []byte("/..")) {
			return "", fault.WithHint(
				fault.New(fault.Precondition, "find control group of process %d: %s lies outside the agent's own namespace", pid, where),
				"run the agent's container with the host's cgroup namespace (--cgroupns=host)")
		}
		return path.Clean(string(where)), nil
	}
	return "", nil
}
