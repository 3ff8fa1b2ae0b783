package supervise

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ticksPerSecond is the kernel's USER_HZ, which is 100 wherever Go runs.
const ticksPerSecond = 100

// usageOf measures a process and those that descend from it; false when it is
// gone. Time of children that ended counts.
func usageOf(pid int) (usage, bool) {
	u, ok := usageOfOne(pid)
	if !ok {
		return usage{}, false
	}
	paths, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, path := range paths {
		text, _ := os.ReadFile(path)
		for _, field := range strings.Fields(string(text)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				continue
			}
			if more, ok := usageOf(child); ok {
				u.cpu += more.cpu
				u.resident += more.resident
				u.moved += more.moved
			}
		}
	}
	return u, true
}

func usageOfOne(pid int) (usage, bool) {
	dir := fmt.Sprintf("/proc/%d", pid)
	text, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return usage{}, false
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	const userTime, resident = 11, 21 // of proc(5), counted from the state
	if len(fields) <= resident {
		return usage{}, false
	}
	var ticks int64
	for _, field := range fields[userTime : userTime+4] { // utime, stime, cutime, cstime
		n, _ := strconv.ParseInt(field, 10, 64)
		ticks += n
	}
	pages, _ := strconv.ParseInt(fields[resident], 10, 64)
	return usage{
		cpu: time.Duration(ticks) * time.Second / ticksPerSecond, resident: pages * int64(os.Getpagesize()), moved: movedBy(dir),
	}, true
}

// movedBy gives how many bytes a process read and wrote, of its ended children
// too; 0 where that may not be read.
func movedBy(dir string) (bytes int64) {
	text, _ := os.ReadFile(filepath.Join(dir, "io"))
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if name == "rchar" || name == "wchar" {
			n, _ := strconv.ParseInt(value, 10, 64)
			bytes += n
		}
	}
	return bytes
}
