// Package digits holds the handwritten digits that the reference trainer
// learns on, and lays two of them over each other.
//
// The data is the work of E. Alpaydin and C. Kaynak; see NOTICE.
package digits

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/csv"
	"fmt"
	"io"
	"strconv"

	"github.com/vigil-ml/vigil/internal/fault"
)

const (
	// Side is the height and width of one digit in pixels.
	Side = 8
	// CanvasWidth is the width of two overlaid digits in pixels.
	CanvasWidth = 12
	// CanvasPixels is the size of two overlaid digits.
	CanvasPixels = Side * CanvasWidth
	// Classes is the number of labels.
	Classes = 10

	rightColumn = CanvasWidth - Side // where the right digit begins
	maxPixel    = 16                 // in the file
	heldOutOf   = 5                  // every fifth digit is held out
)

//go:embed digits.csv.gz
var compressed []byte

// Digit is one handwritten digit.
type Digit struct {
	Pixels [Side * Side]float32 // row by row; 0 is white, 1 is ink
	Label  int                  // 0 to 9
}

// Set is the digits in a fixed split: every fifth is held out.
type Set struct {
	Train []Digit
	Test  []Digit
}

// Load gives the digits.
func Load() (*Set, error) {
	r, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		return nil, fmt.Errorf("open embedded digits: %w", err)
	}
	return read(r)
}

func read(r io.Reader) (*Set, error) {
	rows := csv.NewReader(r)
	rows.FieldsPerRecord = Side*Side + 1
	rows.ReuseRecord = true
	set := &Set{}
	for n := 0; ; n++ {
		row, err := rows.Read()
		if err == io.EOF {
			return set, nil
		}
		if err != nil {
			return nil, fault.Mark(fault.Corrupt, fmt.Errorf("read digits: %w", err))
		}
		digit, err := parse(row)
		if err != nil {
			return nil, fault.Mark(fault.Corrupt, fmt.Errorf("read digit %d: %w", n+1, err))
		}
		if n%heldOutOf == heldOutOf-1 {
			set.Test = append(set.Test, digit)
		} else {
			set.Train = append(set.Train, digit)
		}
	}
}

func parse(row []string) (Digit, error) {
	var d Digit
	for i := range d.Pixels {
		value, err := strconv.Atoi(row[i])
		if err != nil || value < 0 || value > maxPixel {
			return Digit{}, fmt.Errorf("pixel %d is %q; want 0 to %d", i+1, row[i], maxPixel)
		}
		d.Pixels[i] = float32(value) / maxPixel
	}
	label, err := strconv.Atoi(row[len(row)-1])
	if err != nil || label < 0 || label >= Classes {
		return Digit{}, fmt.Errorf("label is %q; want 0 to %d", row[len(row)-1], Classes-1)
	}
	d.Label = label
	return d, nil
}

// Overlay lays two digits over each other on a canvas of CanvasPixels, row by
// row: the left one at columns 0 to 7, the right one at columns 4 to 11; where
// both have a pixel the darker one counts. It gives the total ink, the sum of
// the canvas.
func Overlay(canvas []float32, left, right *Digit) (ink float32) {
	clear(canvas[:CanvasPixels])
	for row := range Side {
		for column := range Side {
			at := row*CanvasWidth + column
			canvas[at] = left.Pixels[row*Side+column]
		}
		for column := range Side {
			at := row*CanvasWidth + column + rightColumn
			canvas[at] = max(canvas[at], right.Pixels[row*Side+column])
		}
	}
	for _, value := range canvas[:CanvasPixels] {
		ink += value
	}
	return ink
}
