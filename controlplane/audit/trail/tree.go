package trail

import (
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/vigil-ml/vigil/internal/fault"
)

// Frontier is a tree's right edge: all that is needed to append to it and to
// know its head. The zero value is the empty tree. It is not safe for
// concurrent use.
type Frontier struct {
	size  uint64
	peaks []tlog.Hash // of the complete subtrees, the largest first
}

// NewFrontier puts a frontier together from the hashes at [Peaks] of its size.
func NewFrontier(size uint64, peaks []tlog.Hash) (Frontier, error) {
	if len(peaks) != bits.OnesCount64(size) {
		return Frontier{}, fault.New(fault.Corrupt, "a tree of %d records has %d peaks, not %d", size, bits.OnesCount64(size), len(peaks))
	}
	return Frontier{size, append([]tlog.Hash(nil), peaks...)}, nil
}

// Peaks gives where, among the stored hashes of a tree, the roots of its
// complete subtrees stand, the largest first.
func Peaks(size uint64) []int64 {
	var at []int64
	for level := 63; level >= 0; level-- {
		if size&(1<<level) != 0 {
			at = append(at, tlog.StoredHashIndex(level, int64(size>>level)-1))
		}
	}
	return at
}

// Size is how many records the tree has.
func (f *Frontier) Size() uint64 { return f.size }

// Append adds a leaf and gives the hashes that are stored for it, which follow
// those of the leaf before.
func (f *Frontier) Append(leaf tlog.Hash) (stored []tlog.Hash) {
	stored = append(stored, leaf)
	peaks := append([]tlog.Hash(nil), f.peaks...)
	for n := f.size; n&1 != 0; n >>= 1 {
		last := len(peaks) - 1
		leaf = tlog.NodeHash(peaks[last], leaf)
		peaks = peaks[:last]
		stored = append(stored, leaf)
	}
	f.peaks, f.size = append(peaks, leaf), f.size+1
	return stored
}

// Root is the head of the tree; for an empty one the hash of nothing.
func (f *Frontier) Root() tlog.Hash {
	if len(f.peaks) == 0 {
		h, _ := tlog.TreeHash(0, nil) // needs no hashes
		return h
	}
	root := f.peaks[len(f.peaks)-1]
	for i := len(f.peaks) - 2; i >= 0; i-- {
		root = tlog.NodeHash(f.peaks[i], root)
	}
	return root
}

// Clone gives a frontier of its own.
func (f *Frontier) Clone() Frontier {
	return Frontier{f.size, append([]tlog.Hash(nil), f.peaks...)}
}
