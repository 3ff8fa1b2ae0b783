package columns

import (
	"encoding/hex"
	"flag"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
)

// update writes testdata/golden.txt anew. The format is a promise: what is in
// it may be added to and never changed.
//
//nolint:gochecknoglobals // a test's flag
var update = flag.Bool("update", false, "write golden files anew")

// golden is the examples of docs/formats/samples.md.
func golden() map[string][]Point {
	return map[string][]Point{
		"constant":  column(1, 700, 700, 700),
		"decimal":   column(1, 61.5),
		"counter":   column(3, 1000, 1100, 1205, 1300),
		"steady":    column(3, 1000, 1100, 1200, 1300),
		"pages":     column(300, 409600, 413696, 405504),
		"pattern":   column(1, 1.0/3, 2.0/3, math.Inf(1)),
		"two rows":  slices.Concat(column(1, 1, 2), column(2, 0, 0), column(3, -1, -2), column(7, 5, 5)),
		"two times": slices.Concat(column(1, 1, 2), column(2, 0)),
	}
}

// Blocks that are in some spool must be readable for ever, and the page in
// docs/formats shows these bytes.
func TestFormatIsWhatItWas(t *testing.T) {
	var names []string
	for name := range golden() {
		names = append(names, name)
	}
	slices.Sort(names)
	var text strings.Builder
	for _, name := range names {
		text.WriteString(name + ": " + hex.EncodeToString(new(Encoder).Append(nil, golden()[name])) + "\n")
	}
	if *update {
		if err := os.WriteFile("testdata/golden.txt", []byte(text.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile("testdata/golden.txt")
	if err != nil {
		t.Fatal(err)
	}
	if string(data) != text.String() {
		t.Errorf("the encoder writes\n%swant\n%s", text.String(), data)
	}
	page, err := os.ReadFile("../../docs/formats/samples.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		name, block, _ := strings.Cut(strings.TrimSpace(line), ": ")
		raw, err := hex.DecodeString(block)
		if err != nil {
			t.Fatal(err)
		}
		points, err := new(Decoder).Append(nil, raw)
		if err != nil || !slices.Equal(bySeries(points), bySeries(golden()[name])) {
			t.Errorf("%s reads as %v, %v", name, points, err)
		}
		if !strings.Contains(string(page), block) {
			t.Errorf("docs/formats/samples.md does not show %s: %s", name, block)
		}
	}
}
