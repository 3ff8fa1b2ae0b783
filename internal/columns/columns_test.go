package columns

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/vigil-ml/vigil/internal/fault"
)

// exact is points with values compared by their bits.
type exact struct {
	ref  uint32
	time int64
	bits uint64
}

// bySeries gives points as a block gives them back: by series, in order.
func bySeries(points []Point) []exact {
	var all []exact
	for _, p := range points {
		all = append(all, exact{p.Ref, p.TimeMS, math.Float64bits(p.Value)})
	}
	slices.SortStableFunc(all, func(a, b exact) int { return cmp.Compare(a.ref, b.ref) })
	return all
}

func wantRoundTrip(t *testing.T, points []Point) (blockBytes int) {
	t.Helper()
	block := new(Encoder).Append([]byte("before"), points)
	if string(block[:6]) != "before" {
		t.Fatal("Append does not append")
	}
	got, err := new(Decoder).Append(nil, block[6:])
	if err != nil {
		t.Fatalf("decode %x: %v", block[6:], err)
	}
	if !slices.Equal(bySeries(got), bySeries(points)) {
		t.Errorf("points come back changed:\n got %v\nwant %v", got, points)
	}
	return len(block) - 6
}

// column is one series at one-second steps.
func column(ref uint32, values ...float64) []Point {
	var points []Point
	for i, v := range values {
		points = append(points, Point{ref, 1_800_000_000_000 + int64(i)*1000, v})
	}
	return points
}

func TestEveryFloatComesBack(t *testing.T) {
	nan := math.Float64frombits(0x7ff8dead_beef0001)
	signalling := math.Float64frombits(0xfff00000_00000001)
	for name, values := range map[string][]float64{
		"zero":              {0, 0, 0},
		"minus zero":        {0, math.Copysign(0, -1), 0},
		"only minus zero":   {math.Copysign(0, -1)},
		"NaN payloads":      {nan, signalling, math.NaN(), 1},
		"infinities":        {math.Inf(1), math.Inf(-1), 5},
		"extremes":          {math.MaxFloat64, -math.MaxFloat64, math.SmallestNonzeroFloat64, -5e-324},
		"edge of integers":  {1<<53 - 1, 1 << 53, 1<<53 + 2, -(1<<53 - 1)},
		"far apart":         {-(1<<53 - 1), 1<<53 - 1, -(1<<53 - 1), 1<<53 - 1},
		"huge integers":     {1e18, 1e18 + 4096, 9.2e18, 1e300},
		"decimals":          {0.1, 0.2, 0.3, 0.1 + 0.2},
		"micros":            {12.345678, 12.345679, 0.000001},
		"multiples of 4096": {4096 * 100, 4096 * 101, 4096 * 90},
		"counter":           {1e9, 1e9 + 1500, 1e9 + 3001, 1e9 + 4499},
		"reset":             {1e15, 0, 7},
		"negative":          {-40, -39.5, -41.25},
		"thirds":            {1.0 / 3, 2.0 / 3, 1},
		"one":               {273.15},
	} {
		t.Run(name, func(t *testing.T) { wantRoundTrip(t, column(7, values...)) })
	}
}

func TestAnyPointsComeBack(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		points := make([]Point, 1+random.IntN(200))
		for i := range points {
			points[i] = Point{1 + random.Uint32N(30), random.Int64N(5) * 1000, math.Float64frombits(random.Uint64())}
			switch random.IntN(5) {
			case 0:
				points[i].Value = float64(random.IntN(1000))
			case 1:
				points[i].Value = float64(random.IntN(1000)) / 1000
			case 2:
				points[i].Ref, points[i].TimeMS = math.MaxUint32, random.Int64()-random.Int64()
			}
		}
		wantRoundTrip(t, points)
	}
}

func TestSeriesOfOneRoundShareTheirTimes(t *testing.T) {
	var one, many []Point
	for round := range int64(10) {
		for ref := range uint32(500) {
			p := Point{ref + 1, 1_800_000_000_000 + round*1000, 42}
			many = append(many, p)
			if ref == 0 {
				one = append(one, p)
			}
		}
	}
	if single, all := wantRoundTrip(t, one), wantRoundTrip(t, many); all > single+2*499+4 {
		t.Errorf("%d bytes for a series, %d for 500: want two for each further constant", single, all)
	}
}

func TestSeriesThatMissARoundHaveTheirOwnTimes(t *testing.T) {
	points := slices.Concat(column(1, 1, 2, 3), column(2, 1, 2), column(9, 4, 5, 6), column(3, 1.5, 2.5, 3.5))
	wantRoundTrip(t, points)
}

func TestCallersMistakesPanic(t *testing.T) {
	for name, points := range map[string][]Point{
		"none":     nil,
		"too many": make([]Point, MaxPoints+1),
		"number 0": {{Ref: 0}},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			new(Encoder).Append(nil, points)
		})
	}
}

func TestMemoryIsKept(t *testing.T) {
	points := slices.Concat(column(1, 1, 2, 3), column(2, 0.1, 1.0/3, 0.3), column(3, 7))
	var e Encoder
	var d Decoder
	block := e.Append(nil, points)
	into := make([]Point, 0, len(points))
	allocs := testing.AllocsPerRun(100, func() {
		block = e.Append(block[:0], points)
		if _, err := d.Append(into, block); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > 0 {
		t.Errorf("%v allocations a block", allocs)
	}
}

func TestDecoderRefuses(t *testing.T) {
	for name, block := range map[string][]byte{
		"nothing":            nil,
		"another format":     {9, 1},
		"no groups":          {1, 0},
		"groups cut off":     {1},
		"no times":           {1, 1, 0},
		"too many times":     {1, 1, 0xff, 0xff, 0xff, 0x7f},
		"times cut off":      {1, 1, 2, 0},
		"no series":          {1, 1, 1, 0, 0},
		"gap 0":              {1, 1, 1, 0, 1, 0, 0, 3, 0},
		"number beyond 32":   {1, 1, 1, 0, 1, 0xff, 0xff, 0xff, 0xff, 0x0f, 1, 3, 0},
		"too many samples":   {1, 1, 3, 0, 0, 0, 1, 1, 0xff, 0xff, 0x03, 3, 0},
		"column missing":     {1, 1, 1, 0, 1, 1, 0},
		"scale":              {1, 1, 1, 0, 1, 1, 0, 10<<2 | kindConstant, 0},
		"pattern with scale": {1, 1, 1, 0, 1, 1, 0, 1 << 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"width":              {1, 1, 1, 0, 1, 1, 0, kindDelta, 65, 0, 0},
		"shift":              {1, 1, 1, 0, 1, 1, 0, kindDelta, 0, 64, 0},
		"bits cut off":       {1, 1, 2, 0, 0, 1, 1, 0, kindDelta, 64, 0, 0, 1, 2, 3},
		"pattern cut off":    {1, 1, 1, 0, 1, 1, 0, kindPattern, 0, 0, 1, 2, 3},
		"constant cut off":   {1, 1, 1, 0, 1, 1, 0, kindConstant},
		"bytes behind":       {1, 1, 1, 0, 1, 1, 0, kindConstant, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := new(Decoder).Append(nil, block); !fault.Is(err, fault.Corrupt) {
				t.Errorf("decode = %v, %v; want a corrupt fault", got, err)
			}
		})
	}
}

// FuzzDecoder also holds the encoder to whatever can be decoded.
func FuzzDecoder(f *testing.F) {
	f.Add(new(Encoder).Append(nil, column(1, 1, 2, 3, 5)))
	f.Add(new(Encoder).Append(nil, slices.Concat(column(1, 0.1, 1.0/3, 0.3), column(2, 7), column(3, 1.5, 2.5, math.NaN()))))
	f.Add([]byte{1, 1, 3, 0, 0, 0, 1, 1, 0xff, 0xff, 0x03, 3, 0})
	f.Fuzz(func(t *testing.T, block []byte) {
		points, err := new(Decoder).Append(nil, block)
		if len(points) > MaxPoints {
			t.Fatalf("%d points", len(points))
		}
		if err == nil {
			wantRoundTrip(t, points)
		}
	})
}
