package controlplane

import (
	"os"
	"runtime/debug"
)

const (
	// garbagePercent is how much the heap grows between two collections. A
	// quarter of Go's own: most of the heap is the TSDB's series, which stay.
	garbagePercent = 25
	// leastMemoryBytes is the least limit that makes sense.
	leastMemoryBytes = 64 << 20
)

// holdMemory has the program use less memory than Go does by itself. The
// environment variables GOGC and GOMEMLIMIT come first.
func holdMemory(limitBytes int64) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
	}
	if limitBytes > 0 && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limitBytes)
	}
}
