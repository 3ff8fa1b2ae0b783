package detect_test

import (
	"math/rand/v2"
	"testing"

	"github.com/vigil-ml/vigil/controlplane/detect"
)

var excessSettings = detect.ExcessSettings{
	Least: 0.08, Rows: 8, Clip: 2.5, Slow: 0.3, Usual: 0.02, Forgiven: 0.2, Floor: 0.03, Between: 1e5, Warmup: 16,
}

// firstAlarm gives the row at which the first of eight ranks stands out, -1 for
// none, of rows with so much noise; change changes that rank's.
func firstAlarm(seed uint64, rows int, sigma float64, change func(i int, x float64) float64) int {
	random := rand.New(rand.NewPCG(seed, 4))
	var pool detect.Pool
	each := make([]detect.Excess, 8)
	for i := range rows {
		for r := range each {
			x := sigma * random.NormFloat64()
			if random.IntN(200) == 0 {
				x += random.ExpFloat64() // a host stutters
			}
			if r == 0 {
				x = change(i, x)
			}
			each[r].Add(excessSettings, &pool, x, true)
		}
		if each[0].Judge(excessSettings, &pool).Score >= excessSettings.Limit(len(each)) {
			return i
		}
	}
	return -1
}

func TestExcess(t *testing.T) {
	const onset = 150
	after := func(change func(i int, x float64) float64) func(int, float64) float64 {
		return func(i int, x float64) float64 {
			if i < onset {
				return x
			}
			return change(i-onset, x)
		}
	}
	tests := map[string]struct {
		sigma  float64
		change func(i int, x float64) float64
		within int // rows after the onset; -1 for no alarm
	}{
		"nothing":              {0.1, after(func(_ int, x float64) float64 { return x }), -1},
		"much noise":           {0.6, after(func(_ int, x float64) float64 { return x }), -1},
		"a step up":            {0.1, after(func(_ int, x float64) float64 { return x + 0.4 }), 12},
		"a small step up":      {0.05, after(func(_ int, x float64) float64 { return x + 0.14 }), 14},
		"a step in much noise": {0.4, after(func(_ int, x float64) float64 { return x + 0.5 }), 60},
		"too small to matter":  {0.03, after(func(_ int, x float64) float64 { return x + 0.03 }), -1},
		"every fourth row": {0.05, after(func(i int, x float64) float64 {
			if i%4 == 0 {
				x += 0.9
			}
			return x
		}), 50},
		"one row": {0.1, after(func(i int, x float64) float64 {
			if i == 0 {
				x += 20
			}
			return x
		}), -1},
		"two rows": {0.1, after(func(i int, x float64) float64 {
			if i < 2 {
				x += 0.7
			}
			return x
		}), -1},
		"down":                    {0.1, after(func(_ int, x float64) float64 { return x - 1 }), -1},
		"slow from the first row": {0.05, func(_ int, x float64) float64 { return x + 0.5 }, 0},
		"a bit slow from the first row, and then no more": {0.1, func(_ int, x float64) float64 { return x + 0.04 }, -1},
	}
	for name, test := range tests {
		for seed := range uint64(20) {
			at := firstAlarm(seed, 400, test.sigma, test.change)
			switch {
			case test.within < 0 && at >= 0:
				t.Errorf("%s, seed %d: alarm at row %d", name, seed, at)
			case test.within > 0 && (at < onset || at > onset+test.within):
				t.Errorf("%s, seed %d: alarm at row %d, want %d to %d", name, seed, at, onset, onset+test.within)
			case test.within == 0 && (at < 0 || at > 30):
				t.Errorf("%s, seed %d: alarm at row %d, want one of the first 30", name, seed, at)
			}
		}
	}
}

// TestExcessIsRarelyWrong holds what Limit promises: of Gaussian noise, far
// fewer false alarms than one in Between steps.
func TestExcessIsRarelyWrong(t *testing.T) {
	set, alarms := excessSettings, 0
	set.Between, set.Least = 1e4, 0.01
	random := rand.New(rand.NewPCG(7, 7))
	var pool detect.Pool
	const ranks, rows = 8, 5000
	each := make([]detect.Excess, ranks)
	for range rows {
		for r := range each {
			each[r].Add(set, &pool, 0.1*random.NormFloat64(), true)
			if each[r].Judge(set, &pool).Score >= set.Limit(ranks) {
				alarms++
				each[r].Forget()
			}
		}
	}
	if alarms > 2 {
		t.Errorf("%d false alarms in %d steps of %d ranks, with one in %g promised", alarms, rows, ranks, set.Between)
	}
}
