package rules

import (
	"fmt"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// fragmentBlocks is how many blocks are looked back over.
const fragmentBlocks = 8

// FragmentationSettings says when an allocator holds too much that nobody uses.
type FragmentationSettings struct {
	// Block is the number of rows in a block.
	Block int `yaml:"block"`
	// Share is the share of what is held, 0 to 1, that must be unused.
	Share float64 `yaml:"share"`
	// Growth is the share of what is held by which the unused part must have
	// grown over the blocks.
	Growth float64 `yaml:"growth"`
	// Rising is how many of the steps from block to block, of 7, must be up.
	Rising int `yaml:"rising"`
}

func defaultFragmentation() FragmentationSettings {
	return FragmentationSettings{Block: 32, Share: 0.3, Growth: 0.1, Rising: 5}
}

// Fragmentation finds a GPU allocator whose unused part grows.
//
// Method: what the framework's allocator holds less what of it is in use, as
// the least of blocks of Block rows. It is over Share of what is held, grew by
// Growth of it over 8 blocks, and rose in Rising of their 7 steps. A cache that
// was filled by one large batch is not fragmentation: it does not grow on.
//
// What it confuses: sequences of many lengths, which fill the cache with blocks
// of every size until all have come; that levels off. Memory that is used and
// grows is a leak, which is another rule's.
func Fragmentation(set FragmentationSettings) detect.Rule {
	return detect.Rule{
		Code:     "fragmentation",
		Title:    "GPU memory is fragmented",
		Severity: commonv1.Severity_SEVERITY_WARNING,
		New: func() detect.Detector {
			return &fragmentation{set: set, ranks: newPerRank(func() *fragments { return &fragments{} })}
		},
	}
}

type fragmentation struct {
	set   FragmentationSettings
	ranks perRank[fragments]
	found *fragments // the rank that was found
}

// fragments is what a rank's allocator holds for nothing.
type fragments struct {
	series detect.Series
	rows   int // in the block
	least  float64
	begin  int64
	blocks [fragmentBlocks]float64 // the least of each, the newest last
	steps  [fragmentBlocks]int64   // at which each began
	n      int
}

// Open tells whether the rank that was found is still fragmented.
func (d *fragmentation) Open() bool { return d.found != nil }

// Observe takes the run's next event.
func (d *fragmentation) Observe(event *commonv1.Event) []*controlv1.Finding {
	s := event.GetStep()
	if s == nil || s.GpuMemoryReservedBytes == nil || s.GpuMemoryBytes == nil || s.GetGpuMemoryReservedBytes() <= 0 {
		return nil
	}
	r := d.ranks.of(event.GetRank())
	switch r.series.Take(event.GetAttempt(), s.GetStep()) {
	case detect.Skip:
		return nil
	case detect.Restart:
		*r = fragments{series: r.series}
		if d.found == r {
			d.found = nil
		}
	}
	held := float64(s.GetGpuMemoryReservedBytes())
	if !r.add(s.GetStep(), max(0, held-float64(s.GetGpuMemoryBytes())), d.set.Block) {
		return nil
	}
	unused, grown, rising := r.blocks[fragmentBlocks-1], r.blocks[fragmentBlocks-1]-r.blocks[0], r.rising()
	if d.found == r && unused < d.set.Share*held {
		d.found = nil
	}
	if d.found != nil || r.n < fragmentBlocks || unused < d.set.Share*held || grown < d.set.Growth*held || rising < d.set.Rising {
		return nil // what several ranks have at once is one finding
	}
	d.found = r
	f := detect.FindingOf(event, r.steps[0], s.GetStep())
	f.Summary = fmt.Sprintf("%s holds %.1f GB of GPU memory of which %.1f GB (%.0f %%) are unused, %.1f GB more than at step %d.",
		who(event), held/1e9, unused/1e9, 100*unused/held, grown/1e9, r.steps[0])
	f.Evidence = map[string]float64{"reserved_bytes": held, "unused_bytes": unused, "unused_share": unused / held, "grown_bytes": grown}
	return []*controlv1.Finding{f}
}

// add takes a row and tells whether a block is full with it.
func (r *fragments) add(step int64, unused float64, block int) bool {
	if r.rows == 0 {
		r.least, r.begin = unused, step
	}
	r.least = min(r.least, unused)
	if r.rows++; r.rows < block {
		return false
	}
	copy(r.blocks[:], r.blocks[1:])
	copy(r.steps[:], r.steps[1:])
	r.blocks[fragmentBlocks-1], r.steps[fragmentBlocks-1] = r.least, r.begin
	r.rows, r.n = 0, min(r.n+1, fragmentBlocks)
	return true
}

// rising is how often a block has more than the one before.
func (r *fragments) rising() int {
	up := 0
	for i := 1; i < fragmentBlocks; i++ {
		if r.blocks[i] > r.blocks[i-1] {
			up++
		}
	}
	return up
}
