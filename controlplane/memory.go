package controlplane

import (
	"os"
	"runtime/debug"

	"github.com/vigil-ml/vigil/controlplane/load"
)

const (
	// garbagePercent is how much the heap grows between two collections. A
	// quarter of Go's own: most of the heap is the TSDB's series, which stay.
	garbagePercent = 25
	// leastMemoryBytes is the least limit that makes sense.
	leastMemoryBytes = 64 << 20
)

// holdMemory has the program use less memory than Go does by itself, and gives
// the limit in bytes that it aims to stay below; 0 where there is none. The
// environment variables GOGC and GOMEMLIMIT come first.
func holdMemory(limitBytes int64) (limit uint64) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
	}
	return load.SetLimit(limitBytes)
}
