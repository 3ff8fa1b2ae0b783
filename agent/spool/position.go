package spool

import (
	"cmp"
	"fmt"
)

// Position is a place in a spool. The zero Position stands before every frame.
type Position struct {
	Epoch    uint64 // grows at every opening; >= 1 for a frame
	Sequence uint64 // counts the frames of the epoch; >= 1 for a frame
}

// Compare gives -1, 0 or 1 as p stands before, at or behind q.
func (p Position) Compare(q Position) int {
	return cmp.Or(cmp.Compare(p.Epoch, q.Epoch), cmp.Compare(p.Sequence, q.Sequence))
}

// String gives "epoch/sequence".
func (p Position) String() string { return fmt.Sprintf("%d/%d", p.Epoch, p.Sequence) }

// Record is one frame of a spool.
type Record struct {
	Position Position
	Payload  []byte // what was appended; the receiver's to keep
}
