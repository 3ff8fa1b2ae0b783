package controlplane

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/vigil-ml/vigil/internal/life"
)

const (
	// garbagePercent is how much a large heap grows between two collections. A
	// quarter of Go's own: most of the heap is the TSDB's series, which stay.
	garbagePercent = 25
	// garbageBytes is how much a heap may grow between two collections however
	// small it is: a quarter of little is collected again and again.
	garbageBytes = 16 << 20
	// garbageMostPercent bounds that for a heap that is nearly empty.
	garbageMostPercent = 400
	// memoryLookEvery is between two looks at how large the heap is.
	memoryLookEvery = time.Second
	// leastMemoryBytes is the least limit that makes sense.
	leastMemoryBytes = 64 << 20

	liveHeap = "/gc/heap/live:bytes"
)

// holdMemory has the program use less memory than Go does by itself where the
// heap is large, until ctx ends. The environment variable GOGC comes first.
func holdMemory(ctx context.Context) error {
	if os.Getenv("GOGC") != "" {
		<-ctx.Done()
		return nil
	}
	sample := []metrics.Sample{{Name: liveHeap}}
	for is := 0; ; {
		metrics.Read(sample)
		// To set it stops the world for a moment: not for every small change.
		if percent := garbageOf(sample[0].Value.Uint64()); percent*10 < is*9 || percent*10 > is*11 {
			debug.SetGCPercent(percent)
			is = percent
		}
		if !life.Sleep(ctx, memoryLookEvery) {
			return nil
		}
	}
}

// garbageOf gives how much a heap of a size grows before it is collected, in
// percent.
func garbageOf(liveBytes uint64) int {
	return int(min(max(garbageBytes*100/max(liveBytes, 1), garbagePercent), garbageMostPercent))
}
