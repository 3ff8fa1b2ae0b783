package load

import (
	"bytes"
	"math"
	"os"
	"path"
	"path/filepath"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
)

// groupShare of what its control group may use is what a process takes; the
// rest is for what Go does not count: mapped files and the kernel's buffers.
const groupShare = 0.9

// SetLimit has the Go runtime aim to stay below a number of bytes, or, with 0,
// below what the process' control group allows, and gives the limit that holds;
// 0 where there is none. The environment variable GOMEMLIMIT comes first.
func SetLimit(bytes int64) uint64 {
	if os.Getenv("GOMEMLIMIT") == "" {
		if bytes == 0 {
			bytes = int64(groupShare * float64(groupLimit("/")))
		}
		if bytes > 0 {
			debug.SetMemoryLimit(bytes)
		}
	}
	if holds := debug.SetMemoryLimit(-1); holds < math.MaxInt64 {
		return uint64(holds)
	}
	return 0
}

// groupLimit gives the least memory limit of the process' control group and
// those above it, version 2 or 1, in bytes; 0 where there is none.
func groupLimit(root string) uint64 {
	text, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return 0
	}
	least := uint64(math.MaxUint64)
	for line := range strings.Lines(string(text)) {
		hierarchy, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, group, _ := strings.Cut(rest, ":")
		base, file := "sys/fs/cgroup", "memory.max"
		if hierarchy != "0" {
			if controllers != "memory" {
				continue
			}
			base, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		}
		for at := path.Clean("/" + group); ; at = path.Dir(at) {
			if limit, ok := readLimit(filepath.Join(root, base, at, file)); ok {
				least = min(least, limit)
			}
			if at == "/" {
				break
			}
		}
	}
	// Version 1 writes "none" as a number near the largest.
	if least >= 1<<60 {
		return 0
	}
	return least
}

func readLimit(file string) (uint64, bool) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, false
	}
	limit, err := strconv.ParseUint(string(bytes.TrimSpace(text)), 10, 64)
	return limit, err == nil // "max" is none
}

// readRuntime reads the Go runtime's figures.
func readRuntime() Usage {
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(samples)
	value := func(i int) uint64 { return samples[i].Value.Uint64() }
	held := value(1) - min(value(2), value(1))
	heap := min(value(3)+value(4)+value(5), held)
	return Usage{Live: value(0) + held - heap, Held: held}
}
