package routing

import (
	"fmt"
	"runtime"
	"testing"
)

// BenchmarkGroups has 10,000 alerts of a group each taken in and told, and
// reports the memory that a group costs: they are in the store, so next to
// nothing.
func BenchmarkGroups(b *testing.B) {
	for b.Loop() {
		d := newDesk(b, oneReceiver, "a")
		heap := func() uint64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		const groups = 10_000
		before := heap()
		for n := range groups {
			d.alert(fmt.Sprintf("X%d fires severity=critical node=n%d", n, n%100))
		}
		after := max(heap(), before)
		b.ReportMetric(float64(after-before)/groups, "B/group")
	}
}

// TestGroupsCostLittle is the benchmark in short: a group costs less than 5 KiB.
func TestGroupsCostLittle(t *testing.T) {
	d := newDesk(t, oneReceiver, "a")
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const groups = 500
	for n := range groups {
		d.alert(fmt.Sprintf("X%d fires severity=critical node=n%d", n, n%100))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if each := int64(after.HeapAlloc-before.HeapAlloc) / groups; each > 5<<10 {
		t.Errorf("a group costs %d bytes, want less than 5 KiB", each)
	}
}
