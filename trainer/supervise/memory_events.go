package supervise

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// cgroups is where control groups are; version 2 is meant, and where only
// version 1 is nothing is known.
const cgroups = "/sys/fs/cgroup"

// oomKills reads how many processes of a process' control group the kernel
// killed for want of memory; false where that is not known. Root and proc are
// usually "/sys/fs/cgroup" and "/proc/self".
func oomKills(root, proc string) (int64, bool) {
	text, err := os.ReadFile(filepath.Join(proc, "cgroup"))
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(text)) {
		path, found := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !found {
			continue
		}
		events, err := os.ReadFile(filepath.Join(root, path, "memory.events"))
		if err != nil {
			return 0, false
		}
		for line := range strings.Lines(string(events)) {
			if value, found := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); found {
				n, err := strconv.ParseInt(value, 10, 64)
				return n, err == nil
			}
		}
	}
	return 0, false
}
