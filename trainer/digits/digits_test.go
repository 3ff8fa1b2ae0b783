package digits

import (
	"strings"
	"testing"

	"github.com/vigil-ml/vigil/internal/fault"
)

func TestLoad(t *testing.T) {
	set, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	if len(set.Train) != 1438 || len(set.Test) != 359 {
		t.Errorf("%d and %d digits, want 1438 and 359", len(set.Train), len(set.Test))
	}
	var seen [Classes]int
	for _, d := range set.Test {
		seen[d.Label]++
		for _, pixel := range d.Pixels {
			if pixel < 0 || pixel > 1 {
				t.Fatalf("pixel %v is outside 0 to 1", pixel)
			}
		}
	}
	for label, n := range seen {
		if n < 20 {
			t.Errorf("digit %d is held out %d times only", label, n)
		}
	}
}

func TestDamagedDataIsNamed(t *testing.T) {
	good := strings.Repeat("3,", 64) + "7\n"
	for want, text := range map[string]string{
		`read digit 2: pixel 1 is "17"`: good + "17," + strings.Repeat("3,", 63) + "7\n",
		`label is "ten"`:                strings.Repeat("3,", 64) + "ten\n",
		"wrong number of fields":        good + "1,2\n",
	} {
		if _, err := read(strings.NewReader(text)); !fault.Is(err, fault.Corrupt) || !strings.Contains(err.Error(), want) {
			t.Errorf("read = %v, want corrupt with %q", err, want)
		}
	}
}

func TestOverlayTakesTheDarkerPixel(t *testing.T) {
	var left, right Digit
	left.Pixels[0], left.Pixels[7] = 0.25, 0.5   // columns 0 and 7
	right.Pixels[3], right.Pixels[7] = 0.75, 1.0 // columns 7 and 11
	canvas := make([]float32, CanvasPixels)
	canvas[50] = 9 // from an earlier use
	if ink := Overlay(canvas, &left, &right); ink != 2 {
		t.Errorf("ink is %v, want 2", ink)
	}
	if canvas[0] != 0.25 || canvas[7] != 0.75 || canvas[11] != 1 || canvas[50] != 0 {
		t.Errorf("canvas is %v", canvas[:12])
	}
}
