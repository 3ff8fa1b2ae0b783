package data

import (
	"math/rand/v2"

	"github.com/vigil-ml/vigil/trainer/digits"
)

const (
	// InkUnit is the ink that counts as 1: about a canvas' mean.
	InkUnit = 32

	heldPairs = 2048 // pairs of held-out digits, always the same
	heldSeed  = 3
)

// pairs is two handwritten digits that lie over each other, drawn anew for each
// sample: which is left, which is right, and how much ink there is.
type pairs struct {
	set  *digits.Set
	held []int32

	state  rand.PCG // of the draw in progress
	source *rand.Rand
}

// NewDigits gives the overlaid digits.
func NewDigits() (Source, error) {
	set, err := digits.Load()
	if err != nil {
		return nil, err
	}
	p := &pairs{set: set, held: make([]int32, 2*heldPairs)}
	p.source = rand.New(&p.state)
	source := rand.New(rand.NewPCG(heldSeed, heldSeed))
	for i := range p.held {
		p.held[i] = int32(source.IntN(len(set.Test)))
	}
	return p, nil
}

// Shape has an epoch consume as many samples as there are digits.
func (p *pairs) Shape() Shape {
	return Shape{Inputs: digits.CanvasPixels, Rows: len(p.set.Train), Targets: []Target{
		{Name: "left", Classes: digits.Classes, Outputs: 1, Unit: 1},
		{Name: "right", Classes: digits.Classes, Outputs: 1, Unit: 1},
		{Name: "ink", Outputs: 1, Unit: InkUnit},
	}}
}

// Picks is two digits.
func (*pairs) Picks() int { return 2 }

// Draw draws digits independently.
func (p *pairs) Draw(c *Cursor, picks []int32) {
	p.state = c.Random
	for i := range picks {
		picks[i] = int32(p.source.IntN(len(p.set.Train)))
	}
	c.Random = p.state
	c.Drawn += int64(len(picks) / 2)
}

// Fill lays the pairs over each other.
func (p *pairs) Fill(b *Batch, picks []int32) { overlay(b, p.set.Train, picks) }

// Held gives pairs of digits that no training sample has.
func (p *pairs) Held(b *Batch, from int) int {
	rows := min(b.Rows, heldPairs-from)
	overlay(b, p.set.Test, p.held[2*from:2*(from+rows)])
	return rows
}

func overlay(b *Batch, from []digits.Digit, picks []int32) {
	for i := range len(picks) / 2 {
		left, right := &from[picks[2*i]], &from[picks[2*i+1]]
		canvas := b.Inputs[i*digits.CanvasPixels : (i+1)*digits.CanvasPixels]
		b.Values[2][i] = digits.Overlay(canvas, left, right) / InkUnit
		b.Labels[0][i], b.Labels[1][i] = left.Label, right.Label
	}
}
